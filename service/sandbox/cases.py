"""What the stand-in court holds: each valid CNJ number is a case whose documents follow from the number.

Everything is invented and derived by hashing: two portals, and a test beside them, agree on every byte.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from functools import cached_property, lru_cache
from types import MappingProxyType
from uuid import UUID, uuid5

from service.core.cnj import check_digits, mask, parse_process_number

CHUNK_BYTES = 64 * 1024
PDF, HTML, RTF = "application/pdf", "text/html", "application/rtf"

_GIB = 1024**3
_BRASILIA = timezone(timedelta(hours=-3))
_NAMESPACE = UUID("5b0f5a52-3a7e-4a39-9d0c-6c2f1e7f8b11")
_TINY_HTML = b"<div>Cumpra-se.</div>"
_SCANNER_JUNK = b"\r\n\x00capa do digitalizador\r\n"
_STALE_DOCUMENTS = 17


class Special(IntEnum):
    """The first parts (NNNNNNN) of the numbers behind which the portal misbehaves."""

    UNKNOWN = 9_000_001
    NO_ACCESS = 9_000_002
    CODEX_SOME = 9_000_003
    CODEX_ALL = 9_000_004
    SLOW = 9_000_005
    HUGE = 9_000_006
    THOUSAND = 9_000_007
    THROTTLED = 9_000_008
    TOKEN_EXPIRES = 9_000_009
    EMPTY = 9_000_010
    SEALED = 9_000_011
    FLAKY = 9_000_012
    BUSY = 9_000_013
    GROWING = 9_000_014
    FIREWALL = 9_000_015
    HANGING = 9_000_016
    LARGE = 9_000_017


@dataclass(frozen=True)
class SpecialCase:
    """What a special first part shows, in one line, and how many documents its case has."""

    description: str
    documents: int


SPECIAL_CASES: dict[int, SpecialCase] = {
    Special.UNKNOWN: SpecialCase("The portal knows no such process", 0),
    Special.NO_ACCESS: SpecialCase("The token has no standing in the process", 0),
    Special.CODEX_SOME: SpecialCase("3 of 10 documents fail for ever", 10),
    Special.CODEX_ALL: SpecialCase("Each of the 5 documents fails for ever", 5),
    Special.SLOW: SpecialCase("8 documents, each dripping over about 5 seconds", 8),
    Special.HUGE: SpecialCase("3 documents, one of them of exactly 1 GiB", 3),
    Special.THOUSAND: SpecialCase("1,000 small documents", 1000),
    Special.THROTTLED: SpecialCase("Too many requests a second are answered with 429", 12),
    Special.TOKEN_EXPIRES: SpecialCase("The token expires for 3 seconds after the 4th document", 12),
    Special.EMPTY: SpecialCase("A process without documents", 0),
    Special.SEALED: SpecialCase("A sealed process (secrecy level 5)", 6),
    Special.FLAKY: SpecialCase("The first request for each of the 12 documents goes wrong", 12),
    Special.BUSY: SpecialCase("The process itself answers 503 twice, then works", 8),
    Special.GROWING: SpecialCase("Each look at the process finds 2 documents more (4 at first)", 4),
    Special.FIREWALL: SpecialCase("The gateway's firewall rejects every request", 0),
    Special.HANGING: SpecialCase("The portal never answers for the process", 0),
    Special.LARGE: SpecialCase("3 documents, one of them of exactly 24 MiB", 3),
}

# A number that people know by heart keeps the size of its file.
_KNOWN_COUNTS = {"10035792220258260564": 26}

# The oldest documents of each case bring one of every kind, and the names that break things.
_OPENING: tuple[tuple[str, str], ...] = (
    ("Petição Inicial", PDF),
    ("Despacho", HTML),
    ("Contrato assinado.pdf", HTML),
    ("Procuração/Substabelecimento; 2ª via: \"cópia\", 'fls. 3'", RTF),
    ("../../Certidao\\de publicacao.pdf", PDF),
    (("Comprovante de recolhimento das custas iniciais e da taxa " * 2)[:104], PDF),
    ("Ata de Audiencia.pdf", RTF),
)
_COMMON_NAMES = (
    "Documento",
    "Petição",
    "Despacho",
    "Certidão de Publicação",
    "Decisao",
    "Sentença",
    "Ato Ordinatório",
)
_TYPES = ((1, "Petição"), (2, "Despacho"), (3, "Certidão"), (4, "Decisão"), (5, "Sentença"))
_STATE_LIST = "AC AL AP AM BA CE DFT ES GO MA MT MS MG PA PB PR PE PI RJ RN RS RO RR SC SE SP TO"


@dataclass(frozen=True)
class CaseDocument:
    """One document of a case; `position` counts from the oldest, `media_type` is what its bytes are."""

    uuid: str
    position: int
    name: str
    media_type: str
    size: int
    added_at: datetime

    @property
    def declared_type(self) -> str:
        """The MIME type the portal tells, which is wrong for RTF as it is at the real one."""
        return "text/richtext" if self.media_type == RTF else self.media_type

    @property
    def sequence(self) -> int:
        """Its number in the file; every seventh is a sealed document that the portal leaves out."""
        return self.position + 1 + self.position // 6


@dataclass(frozen=True)
class ExpectedDocument:
    """What a client ends up with that did everything right; nothing when `is_served` is false."""

    document: CaseDocument
    is_served: bool

    @property
    def uuid(self) -> str:
        """The document's uuid in the portal's links."""
        return self.document.uuid

    @property
    def name(self) -> str:
        """The name as the portal lists it."""
        return self.document.name

    @property
    def size(self) -> int:
        """The body's length in bytes."""
        return self.document.size

    @property
    def media_type(self) -> str:
        """What the bytes are, whatever the portal declares: PDF, HTML or RTF."""
        return self.document.media_type

    @cached_property
    def sha256(self) -> str:
        """The body's SHA-256 in hex, computed when first asked for: the 1 GiB document takes seconds."""
        digest = hashlib.sha256()
        for chunk in body_chunks(self.document):
            digest.update(chunk)
        return digest.hexdigest()


def special_number(first_part: int) -> str:
    """Complete a first part to a valid masked number: 9000001 gives 9000001-DD.2025.8.26.0100."""
    digits = f"{first_part:07d}00" + "2025" + "8" + "26" + "0100"
    return mask(digits[:7] + check_digits(digits) + digits[9:])


def special_of(digits: str) -> int:
    """Return the first part of 20 digits, as `Special` compares it."""
    return int(digits[:7])


def documents_of(digits: str, *, reads: int = 1) -> tuple[CaseDocument, ...]:
    """Return the case's documents, oldest first, as the `reads`-th look at the process finds them."""
    return _documents(digits, _document_count(digits, reads))


def find_document(digits: str, uuid: str, *, reads: int = 1) -> CaseDocument | None:
    """Return the document behind a link of the process, be it the current one or that of a stale copy."""
    return _by_uuid(digits, _document_count(digits, reads)).get(uuid)


def stale_uuid(document: CaseDocument, copy: int) -> str:
    """Return the uuid under which the `copy`-th older feed (0..3) lists the same document."""
    return str(uuid5(_NAMESPACE, f"{document.uuid}/{copy}"))


def expected_documents(number: str, *, reads: int = 1) -> list[ExpectedDocument]:
    """Return what a client should hold of a process, oldest first.

    Args:
        number: masked or as 20 digits.
        reads: how often the process was read, which matters to the growing case only.

    Raises:
        InvalidProcessNumberError: it is no process number.
    """
    digits = parse_process_number(number)
    return [
        ExpectedDocument(document, is_served=not fails_in_codex(digits, document))
        for document in documents_of(digits, reads=reads)
    ]


def fails_in_codex(digits: str, document: CaseDocument) -> bool:
    """Tell whether the court's store never gives this document."""
    special = special_of(digits)
    return special == Special.CODEX_ALL or (special == Special.CODEX_SOME and document.position % 4 == 1)


# Documents ----------------------------------------------------------------------------------------


def _seeded(*parts: object) -> random.Random:
    text = "/".join(map(str, parts)).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()))


def _document_count(digits: str, reads: int) -> int:
    special = special_of(digits)
    if special in SPECIAL_CASES:
        growth = 2 * (max(reads, 1) - 1) if special == Special.GROWING else 0
        return SPECIAL_CASES[special].documents + growth
    return _KNOWN_COUNTS.get(digits) or _seeded(digits).randint(5, 60)


@lru_cache(maxsize=512)
def _documents(digits: str, count: int) -> tuple[CaseDocument, ...]:
    return tuple(_document(digits, position) for position in range(count))


@lru_cache(maxsize=512)
def _by_uuid(digits: str, count: int) -> dict[str, CaseDocument]:
    documents = _documents(digits, count)
    by_uuid = {document.uuid: document for document in documents}
    if count >= _STALE_DOCUMENTS:
        for copy, document in itertools.product(range(4), documents[:_STALE_DOCUMENTS]):
            by_uuid[stale_uuid(document, copy)] = document
    return by_uuid


def _document(digits: str, position: int) -> CaseDocument:
    seeded = _seeded(digits, position)
    name, media_type = _name_and_type(seeded, position)
    return CaseDocument(
        uuid=str(uuid5(_NAMESPACE, f"{digits}/{position}")),
        position=position,
        name=name,
        media_type=media_type,
        size=_size(digits, position, seeded),
        added_at=_filed_at(digits) + timedelta(hours=7 * position, milliseconds=seeded.randrange(10_000_000)),
    )


def _name_and_type(seeded: random.Random, position: int) -> tuple[str, str]:
    if position < len(_OPENING):
        return _OPENING[position]
    media_type = seeded.choices((PDF, HTML, RTF), (50, 38, 12))[0]
    return seeded.choice(_COMMON_NAMES), media_type


def _size(digits: str, position: int, seeded: random.Random) -> int:
    """Log-normal around a median that is the case's own, but for the special cases; in bytes."""
    special = special_of(digits)
    if special == Special.SLOW:
        return seeded.randint(40_000, 80_000)
    if special == Special.HUGE and position == 0:
        return _GIB
    if special == Special.LARGE and position == 0:
        return 24 * 1024 * 1024
    if position == 1:
        return len(_TINY_HTML)
    if special == Special.THOUSAND:
        return seeded.randint(2_048, 6_144)
    median = _seeded(digits, "median").uniform(14_000, 110_000)
    return min(max(int(seeded.lognormvariate(math.log(median), 1.1)), 2_048), 2_500_000)


def _filed_at(digits: str) -> datetime:
    first_day = datetime(int(digits[9:13]), 1, 10, 10, tzinfo=_BRASILIA)
    return first_day + timedelta(minutes=_seeded(digits, "filed").randrange(2_880))


# Bodies -------------------------------------------------------------------------------------------

_NOISE = random.Random(20_260_110).randbytes(2 * CHUNK_BYTES)
_PROSE = (b"Trata-se de texto inventado, sem partes nem fatos, que apenas ocupa o seu lugar. " * 1_700)[
    : 2 * CHUNK_BYTES
]


def body_chunks(document: CaseDocument) -> Iterator[bytes]:
    """Generate the document's bytes from its uuid, at most 64 KiB at a time."""
    head, tail = _frame(document)
    yield head
    source = _NOISE if document.media_type == PDF else _PROSE
    start = UUID(document.uuid).int % CHUNK_BYTES
    left = document.size - len(head) - len(tail)
    for index in itertools.takewhile(lambda index: index * CHUNK_BYTES < left, itertools.count()):
        # The running number makes each chunk different: two of them swapped change the hash.
        label = b"%016x " % index
        chunk = label + source[start : start + CHUNK_BYTES - len(label)]
        yield chunk[: left - index * CHUNK_BYTES]
    yield tail


def body(document: CaseDocument) -> bytes:
    """Return the document's bytes in one piece; not for the huge one."""
    return b"".join(body_chunks(document))


def text_of(document: CaseDocument) -> str | None:
    """Return the text the portal has of a document; it has none of every fifth."""
    return None if document.position % 5 == 4 else f"{document.name}\n\nTexto inventado de {document.uuid}.\n"


def _frame(document: CaseDocument) -> tuple[bytes, bytes]:
    """Return what stands before and after the filler, so that the whole opens in its application."""
    if document.media_type == PDF:
        return _pdf_frame(document)
    if document.media_type == RTF:
        return rb"{\rtf1\ansi\deff0{\fonttbl{\f0 Arial;}}\f0 %s\par " % document.uuid.encode(), b"}"
    if document.size == len(_TINY_HTML):
        return _TINY_HTML, b""
    return b'<div class="documento"><p>%s</p><p>' % document.uuid.encode(), b"</p></div>"


def _pdf_frame(document: CaseDocument) -> tuple[bytes, bytes]:
    """A page that shows the uuid; the filler is a stream no page uses. Widths are fixed, so lengths are."""
    junk = _SCANNER_JUNK if document.position % 5 == 4 else b""
    head, offsets = _pdf_head(document.uuid)
    closing = b"\nendstream\nendobj\n"
    filler = document.size - len(junk) - len(head) - len(closing) - len(_pdf_index(offsets, 0))
    tail = closing + _pdf_index(offsets, len(head) + filler + len(closing))
    return junk + head.replace(b"/Length 0000000000", b"/Length %010d" % filler), tail


def _pdf_head(uuid: str) -> tuple[bytes, list[int]]:
    page_text = f"BT /F1 14 Tf 60 760 Td (Documento inventado {uuid}) Tj ET"
    head, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(
        (
            "<< /Type /Catalog /Pages 2 0 R >>",
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
            " /Resources << /Font << /F1 5 0 R >> >> >>",
            f"<< /Length {len(page_text)} >>\nstream\n{page_text}\nendstream",
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ),
        start=1,
    ):
        offsets.append(len(head))
        head += f"{number} 0 obj\n{content}\nendobj\n"
    offsets.append(len(head))
    return f"{head}6 0 obj\n<< /Length 0000000000 >>\nstream\n".encode(), offsets


def _pdf_index(offsets: list[int], index_offset: int) -> bytes:
    rows = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(offsets) + 1
    return (
        f"xref\n0 {size}\n0000000000 65535 f \n{rows}"
        f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{index_offset:010d}\n%%EOF\n"
    ).encode()


# The process as the portal writes it --------------------------------------------------------------


def process_object(
    digits: str, *, reads: int = 1, levels: Mapping[str, int | str] = MappingProxyType({})
) -> dict[str, object]:
    """Return the portal's JSON object of a process.

    Args:
        reads: matters to the growing case only.
        levels: of secrecy, of this process by its digits or of its documents by their uuid, other than usual.
    """
    documents = documents_of(digits, reads=reads)
    process: dict[str, object] = {
        "numeroProcesso": mask(digits),
        "siglaTribunal": _court(digits),
        "nivelSigilo": levels.get(digits, 5 if special_of(digits) == Special.SEALED else 0),
        "tramitacaoAtual": _current_feed(digits, documents, levels),
    }
    if len(documents) >= _STALE_DOCUMENTS:
        process["tramitacoes"] = [_stale_feed(digits, documents, copy) for copy in range(4)]
    return process


def _current_feed(
    digits: str, documents: tuple[CaseDocument, ...], levels: Mapping[str, int | str]
) -> dict[str, object]:
    unmeasured = _unmeasured_count(digits, len(documents))
    listed = [
        _listed(digits, document, document.uuid, with_file=age >= unmeasured)
        for age, document in enumerate(reversed(documents))
    ]
    for item, document in zip(listed, reversed(documents), strict=True):
        item["nivelSigilo"] = levels.get(document.uuid, item["nivelSigilo"])
    return _feed(digits) | {
        "distribuicao": [
            {"dataHora": _naive(_filed_at(digits)), "orgaoJulgador": [{"nome": "1ª Vara Imaginária"}]}
        ],
        "movimentos": _movements(digits, documents),
        "processosRelacionados": None,
        "documentos": listed or None,
        "permitePeticionar": True,
    }


def _stale_feed(digits: str, documents: tuple[CaseDocument, ...], copy: int) -> dict[str, object]:
    listed = [
        _listed(digits, document, stale_uuid(document, copy), with_file=False)
        for document in reversed(documents[:_STALE_DOCUMENTS])
    ]
    return _feed(digits) | {
        "distribuicoes": [{"dataHora": _naive(_filed_at(digits))}],
        "movimentos": None,
        "documentos": listed,
        "idFonteDadosCodex": 100 + copy,
    }


def _feed(digits: str) -> dict[str, object]:
    seeded = _seeded(digits, "feed")
    court = _court(digits)
    return {
        "idOrigem": str(seeded.randrange(10**9)),
        "dataHoraAjuizamento": _naive(_filed_at(digits)),
        "instancia": "PRIMEIRO_GRAU",
        "grau": {"sigla": "G1", "nome": "1º Grau", "numero": 1},
        "valorAcao": seeded.randrange(100_000, 90_000_000) / 100,
        "classe": [{"codigo": 7, "descricao": "Procedimento Comum Cível"}],
        "assunto": [{"codigo": 9001, "descricao": "Velas e castiçais", "hierarquia": "DIREITO IMAGINÁRIO"}],
        "tribunal": {
            "sigla": court,
            "nome": f"Tribunal {court}",
            "segmento": "JUSTIÇA",
            "jtr": digits[13:16],
        },
        "partes": [
            {"polo": "ATIVO", "nome": f"Fulana Inventada {seeded.randrange(1000)}", "sigilosa": False},
            {
                "polo": "PASSIVO",
                "nome": "Velas Aurora Imaginária Ltda",
                "sigilosa": False,
                "representantes": None,
            },
        ],
        "ativo": True,
        "idFonteDadosCodex": 99,
    }


def _listed(digits: str, document: CaseDocument, uuid: str, *, with_file: bool) -> dict[str, object]:
    seeded = _seeded(uuid)
    code, type_name = seeded.choice(_TYPES)
    kind: dict[str, object] = {"nome": type_name, "idCodex": code, "idOrigem": str(code)}
    if seeded.random() >= 0.17:
        kind["codigo"] = code
    link = f"/processos/{mask(digits)}/documentos/{uuid}"
    item: dict[str, object] = {
        "sequencia": document.sequence,
        "dataHoraJuntada": _naive(document.added_at),
        "idCodex": seeded.randrange(2**40, 2**62),
        "idOrigem": str(seeded.randrange(10**8)),
        "nome": document.name,
        "nivelSigilo": "SIGILO_ABSOLUTO" if special_of(digits) == Special.SEALED else "PUBLICO",
        "tipo": kind,
        "hrefBinario": f"{link}/binario",
        "hrefTexto": f"{link}/texto",
    }
    return item | {"arquivo": _file(document)} if with_file else item


def _file(document: CaseDocument) -> dict[str, object]:
    return {
        "tipo": document.declared_type,
        "quantidadePaginas": 0,
        "quantidadeImagens": 0,
        "tamanho": document.size,
        "tamanhoTexto": len(text_of(document) or ""),
    }


def _unmeasured_count(digits: str, count: int) -> int:
    """How many of the newest documents come without `arquivo`: few, but in one case of eight nearly all."""
    seeded = _seeded(digits, "unmeasured")
    nearly_all = digits not in _KNOWN_COUNTS and seeded.random() < 1 / 8
    return count * 7 // 8 if nearly_all else min(seeded.randint(1, 4), count // 3)


def _movements(digits: str, documents: tuple[CaseDocument, ...]) -> list[dict[str, str]]:
    newest_first = [
        {"dataHora": _naive(document.added_at), "descricao": f"Juntada de {document.name}"}
        for document in reversed(documents[-20:])
    ]
    return [*newest_first, {"dataHora": _naive(_filed_at(digits)), "descricao": "Distribuído por sorteio"}]


def _naive(moment: datetime) -> str:
    """The time without offset and with 0 to 3 digits of the second's fraction, as the portal has it."""
    seconds, fraction = f"{moment:%Y-%m-%dT%H:%M:%S}", f"{moment.microsecond // 1000:03d}".rstrip("0")
    return f"{seconds}.{fraction}" if fraction else seconds


def _court(digits: str) -> str:
    branch, court = digits[13], int(digits[14:16])
    if branch == "8":
        return f"TJ{_STATE_LIST.split()[court - 1]}"
    return {"4": f"TRF{court}", "5": f"TRT{court}", "6": f"TRE{court}"}.get(branch, f"J{branch}T{court}")
