"""What the portal says of a process, read leniently where it may differ and strictly where it matters."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from service.core.errors import BadContentError, ProcessNotFoundError

_BRASILIA = ZoneInfo("America/Sao_Paulo")
_NAMESPACE = UUID("6f0a1f0e-52a7-4f3c-9a51-0c0b8f8f7c11")
_HREF = re.compile(
    r"/processos/(?P<process>[0-9.-]+)/documentos/(?P<uuid>[0-9a-fA-F-]{36})/binario(?:-url)?/?$"
)
_SECRECY = {
    "PUBLICO": 0,
    "SEGREDO_JUSTICA": 1,
    "SIGILO_MINIMO": 2,
    "SIGILO_MEDIO": 3,
    "SIGILO_INTENSO": 4,
    "SIGILO_ABSOLUTO": 5,
}
_MOST_SECRET = 5
# What PostgreSQL's integer holds.
_INT4 = 2**31
# A pebibyte: who lists a document as larger does not know its size.
_MOST_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """One document as listed; sizes in bytes, `filed_at` in UTC, `filed_at_raw` as the portal wrote it."""

    uuid: UUID
    has_file: bool
    position: int
    name: str
    type_name: str | None
    declared_type: str | None
    declared_bytes: int | None
    secrecy_level: int
    filed_at: datetime | None
    filed_at_raw: str | None


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process as the portal describes it now.

    Attributes:
        source_updated_at: the newest movement that it names.
        changed_at: what the source itself called its last change just before; None when it does not say.
    """

    number: str
    court: str | None
    subject: str | None
    case_class: str | None
    secrecy_level: int
    source_updated_at: datetime | None
    metadata: dict[str, Any]
    documents: list[DocumentRecord]
    changed_at: datetime | None = None


def _secrecy(value: object) -> int:
    """An unknown level is treated as the highest."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= _MOST_SECRET else _MOST_SECRET
    return _SECRECY.get(str(value), _MOST_SECRET)


def _believed(value: object, read: ValidatorFunctionWrapHandler) -> Any:
    """A size that no document has is none: no document is empty. A number beyond 64 bits comes as a float."""
    size = None if isinstance(value, float) and value > _MOST_BYTES else read(value)
    return size if size and size <= _MOST_BYTES else None


def _list(value: object) -> object:
    return [] if value is None else value


def _text_or_none(value: object) -> str | None:
    """Read any scalar as text; PostgreSQL stores no NUL, and one in a name must not cost the whole case."""
    return str(value).replace("\x00", "") if isinstance(value, str | int | float) else None


def _or_none(value: object, read: ValidatorFunctionWrapHandler) -> Any:
    """What only describes is left out when it has another shape: it must not cost the case."""
    try:
        return read(value)
    except ValidationError:
        return None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


Secrecy = Annotated[int, BeforeValidator(_secrecy)]
Text = Annotated[str | None, BeforeValidator(_text_or_none)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Named(_Lenient):
    descricao: Text = None
    nome: Text = None


Named = Annotated[_Named | None, WrapValidator(_or_none)]
FirstNamed = Annotated[_Named | None, WrapValidator(_or_none), BeforeValidator(_first)]


class _File(_Lenient):
    tipo: Text = None
    tamanho: Annotated[Annotated[int, Field(ge=0)] | None, WrapValidator(_believed)] = None


class _Document(_Lenient):
    sequencia: Annotated[int, Field(ge=-_INT4, lt=_INT4)] | None = None
    dataHoraJuntada: Text = None  # noqa: N815  # the portal's names
    idCodex: Text = None  # noqa: N815
    idOrigem: Text = None  # noqa: N815
    nome: Text = None
    nivelSigilo: Secrecy = _MOST_SECRET  # noqa: N815
    tipo: Named = None
    hrefBinario: Text = None  # noqa: N815
    id: Text = None
    arquivo: _File | None = None


class _Movement(_Lenient):
    dataHora: Text = None  # noqa: N815


class _Course(_Lenient):
    classe: FirstNamed = None
    assunto: FirstNamed = None
    movimentos: Annotated[list[_Movement] | None, WrapValidator(_or_none)] = None
    documentos: Annotated[list[_Document], BeforeValidator(_list)] = []
    tribunal: Named = None
    grau: Named = None
    instancia: Text = None
    valorAcao: Annotated[float | None, WrapValidator(_or_none)] = None  # noqa: N815
    dataHoraAjuizamento: Text = None  # noqa: N815


class _Process(_Lenient):
    numeroProcesso: str  # noqa: N815
    siglaTribunal: Text = None  # noqa: N815
    nivelSigilo: Secrecy = _MOST_SECRET  # noqa: N815
    tramitacaoAtual: _Course  # noqa: N815


class _List(_Lenient):
    """The documents apart from their process; a list that is not there is not taken for an empty one."""

    documentos: Annotated[list[_Document], BeforeValidator(_list)]


Form = TypeVar("Form", _Process, _List)


def only_process(body: bytes) -> object:
    """Return the one object that an answer describes; documented as an array of one, also seen bare.

    Raises:
        ProcessNotFoundError: the array is empty.
        BadContentError: no JSON, or several processes.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadContentError("the portal described the process in no JSON") from None
    if not isinstance(value, list):
        return value
    if not value:
        raise ProcessNotFoundError("the portal has no such process")
    if len(value) > 1:
        # Reading the first alone could lose the documents of the others in silence.
        raise BadContentError("the portal described several processes in place of one")
    return value[0]


def read_process(value: object, number: str, *, listed: object = None) -> ProcessRecord:
    """Read the object of one process, asked for by its 20 digits.

    Only `tramitacaoAtual.documentos` counts: the other courses list stale copies under other ids. One entry
    that cannot be read refuses the whole list, because leaving it out would lose a document in silence.
    What merely describes the process is left out when it cannot be read.

    Args:
        listed: an object whose `documentos` are the list in place of those, for a source that has it apart.

    Raises:
        BadContentError: another shape, or another process than the one asked for.
    """
    process = _read(_Process, value, "the process")
    if re.sub(r"\D", "", process.numeroProcesso) != number:
        raise BadContentError("the portal described another process than the one asked for")
    course = process.tramitacaoAtual
    documents = course.documentos if listed is None else _read(_List, listed, "its documents").documentos
    moved = [at for movement in course.movimentos or [] if (at := _time(movement.dataHora))]
    return ProcessRecord(
        number=number,
        court=process.siglaTribunal,
        subject=course.assunto.descricao if course.assunto else None,
        case_class=course.classe.descricao if course.classe else None,
        secrecy_level=process.nivelSigilo,
        source_updated_at=max(moved, default=None),
        metadata={
            "court_name": course.tribunal.nome if course.tribunal else None,
            "degree": course.grau.nome if course.grau else None,
            "instance": course.instancia,
            "value": course.valorAcao,
            "filed_at": course.dataHoraAjuizamento,
        },
        documents=list(_documents(documents, number, process.nivelSigilo)),
    )


def _read(form: type[Form], value: object, what: str) -> Form:
    try:
        return form.model_validate(value)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        # Without its cause, whose text quotes the case.
        raise BadContentError(f"the portal described {what} in another form (at {where})") from None


def _documents(listed: list[_Document], number: str, secrecy_level: int) -> Iterator[DocumentRecord]:
    seen = set()
    for document in listed:
        record = _document(document, number, secrecy_level)
        if record.uuid not in seen:
            seen.add(record.uuid)
            yield record


def _document(document: _Document, number: str, secrecy_level: int) -> DocumentRecord:
    uuid = _uuid(document, number)
    file = document.arquivo or _File()
    return DocumentRecord(
        uuid=uuid
        or uuid5(_NAMESPACE, f"{number}/{document.idCodex}/{document.idOrigem}/{document.sequencia}"),
        has_file=uuid is not None,
        position=document.sequencia or 0,
        name=document.nome or "",
        type_name=document.tipo.nome if document.tipo else None,
        declared_type=file.tipo,
        declared_bytes=file.tamanho,
        # A document is at least as secret as its case.
        secrecy_level=max(document.nivelSigilo, secrecy_level),
        filed_at=_time(document.dataHoraJuntada),
        filed_at_raw=document.dataHoraJuntada,
    )


def _uuid(document: _Document, number: str) -> UUID | None:
    """Read the uuid, which stands inside the link; the link itself is never followed.

    A link into another process gives none: its file would end up under the wrong case. Where a list has no
    links at all, it is the `id`.
    """
    text = document.id
    if document.hrefBinario:
        match = _HREF.search(document.hrefBinario)
        text = match["uuid"] if match and re.sub(r"\D", "", match["process"]) == number else None
    try:
        return UUID(text or "")
    except ValueError:
        return None


def _time(text: str | None) -> datetime | None:
    """Read a time, in Brasília when it says no zone; what is none is left out, the raw text is kept."""
    try:
        time = datetime.fromisoformat(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=_BRASILIA)).astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or one at the very end of the calendar
        return None
