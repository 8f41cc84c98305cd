"""`python -m tests.bench.portal --latency-s 0.15 --documents 30 --sizes real`: a portal that costs little.

It shares the machine with what is measured: so it speaks just enough HTTP/1.1 (GET, over connections that are
kept), remembers nothing, and builds no body for a request: each is a few bytes and then views of one buffer.
Every number has the same documents; a document's uuid tells its place among them.
The first line on stdout is the address; it ends with its parent, or by SIGTERM as any program does.
"""

import argparse
import asyncio
import math
import os
from statistics import NormalDist
from typing import cast
from uuid import UUID, uuid5

import orjson
import uvloop

from service.core.cnj import mask

_PREFIX = b"/api/v2/processos/"
_NAMESPACE = UUID("3d1c8a52-94d6-4c1e-8a0b-52f0f3f6a0e7")
_GIB = 1024**3
_PIECE_BYTES = 256 * 1024
# Queued bytes are views of one buffer, so many of them cost no memory; all but a GiB goes in one go.
_MOST_QUEUED_BYTES = 4 * 1024 * 1024
_PROSE = b"Trata-se de texto inventado, sem partes nem fatos, que apenas ocupa o seu lugar. "
_FILLER = memoryview(_PROSE * (_PIECE_BYTES // len(_PROSE)))
# As long as what takes their places, so that no length has to be counted again.
_NUMBER = mask("0" * 20)
_UUID_BEGINNING = "#" * 28


def sizes_bytes(kind: str) -> list[int]:
    """Return the sizes of a process's first documents in bytes; those after them repeat the sizes.

    "real" is 90, as courts have them: half below 60 KB, a tenth above 300 KB, from 21 bytes to 2.4 MB, in the
    mean some 130 KB. In this order the first 30 are much like all of them, but for the largest.
    """
    if kind == "gib":
        return [_GIB]
    if kind == "tiny":
        return [1024 + place * 61 % 90 * 11 for place in range(90)]
    normal = NormalDist(mu=0, sigma=1.24)
    by_size = [round(60_000 * math.exp(normal.inv_cdf((rank + 0.5) / 90))) for rank in range(90)]
    by_size[0], by_size[-1] = 21, 2_400_000
    return [by_size[place * 61 % 90] for place in range(90)]


class Court:
    """Every answer that there is, made once: a list for any number, and the beginnings of the documents."""

    def __init__(self, documents: int, sizes: str) -> None:
        self._list = _list_of([_listed(place, size) for place, size in _sized(documents, sizes)])
        self._list_head = _head("200 OK", "application/json", len(self._list))
        self._beginnings = [_beginning(place, size) for place, size in _sized(documents, sizes)]
        absent = b'{"code":"404","message":"none"}'
        self._absence = _head("404 Not Found", "application/json", len(absent)) + absent

    def answer(self, request: bytes) -> tuple[bytes, int]:
        """Return the beginning of the answer to a request's head, and how many bytes of filler follow it."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0]
        if method != b"GET" or not path.startswith(_PREFIX):
            return self._absence, 0
        parts = path[len(_PREFIX) :].decode().split("/")
        if len(parts) == 1:
            return self._list_head + self._list_of(parts[0]), 0
        try:
            _number, _documents, uuid, _binary = parts
            return self._beginnings[int(uuid[-8:], 16)]
        except (ValueError, IndexError):
            return self._absence, 0

    def _list_of(self, number: str) -> bytes:
        digits = number.replace("-", "").replace(".", "")
        beginning = str(uuid5(_NAMESPACE, digits))[: len(_UUID_BEGINNING)]
        return self._list.replace(_NUMBER.encode(), mask(digits).encode()).replace(
            _UUID_BEGINNING.encode(), beginning.encode()
        )


class _Connection(asyncio.Protocol):
    """One connection: the next request is looked at when the last is answered."""

    def __init__(self, court: Court, latency_s: float) -> None:
        self._court = court
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._is_answering = False
        self._left_bytes = 0
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_MOST_QUEUED_BYTES)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def _next(self) -> None:
        if self._is_answering:
            return
        request, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            self._received, self._is_answering = rest, True
            self._loop.call_later(self._latency_s, self._answer, request)

    def _answer(self, request: bytes) -> None:
        beginning, self._left_bytes = self._court.answer(request)
        if not self._transport.is_closing():
            self._transport.write(beginning)
            self._go_on()

    def _go_on(self) -> None:
        while self._left_bytes and self._may_write and not self._transport.is_closing():
            piece = _FILLER[: self._left_bytes]
            self._left_bytes -= len(piece)
            self._transport.write(piece)
        if not self._left_bytes:
            self._is_answering = False
            self._next()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._go_on()


def _sized(documents: int, sizes: str) -> list[tuple[int, int]]:
    known = sizes_bytes(sizes)
    return [(place, known[place % len(known)]) for place in range(documents)]


def _media_type(place: int) -> str:
    return "application/pdf" if place % 2 else "text/html"


def _beginning(place: int, size_bytes: int) -> tuple[bytes, int]:
    """The head of the answer with the first bytes of the document, and how much filler is left to send."""
    first = f"%PDF-1.4\n% documento {place}\n" if place % 2 else f"<div>documento {place}</div>"
    beginning = first.encode()[:size_bytes]
    return _head("200 OK", _media_type(place), size_bytes) + beginning, size_bytes - len(beginning)


def _head(status: str, content_type: str, size_bytes: int) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {size_bytes}\r\n\r\n"
    ).encode()


def _listed(place: int, size_bytes: int) -> dict[str, object]:
    link = f"/processos/{_NUMBER}/documentos/{_UUID_BEGINNING}{place:08x}"
    return {
        "sequencia": place + 1,
        "dataHoraJuntada": f"2025-01-{place % 28 + 1:02d}T10:00:00.123",
        "idCodex": 2**41 + place,
        "idOrigem": str(10_000_000 + place),
        "nome": f"Documento {place + 1}",
        "nivelSigilo": "PUBLICO",
        "tipo": {"nome": "Petição", "idCodex": 1, "idOrigem": "1", "codigo": 1},
        "hrefBinario": f"{link}/binario",
        "hrefTexto": f"{link}/texto",
        "arquivo": {
            "tipo": _media_type(place),
            "quantidadePaginas": 0,
            "quantidadeImagens": 0,
            "tamanho": size_bytes,
            "tamanhoTexto": 0,
        },
    }


def _list_of(documents: list[dict[str, object]]) -> bytes:
    course = {
        "idOrigem": "123456789",
        "dataHoraAjuizamento": "2025-01-10T10:00:00",
        "instancia": "PRIMEIRO_GRAU",
        "grau": {"sigla": "G1", "nome": "1º Grau", "numero": 1},
        "valorAcao": 12_345.67,
        "classe": [{"codigo": 7, "descricao": "Procedimento Comum Cível"}],
        "assunto": [{"codigo": 9001, "descricao": "Velas e castiçais", "hierarquia": "DIREITO IMAGINÁRIO"}],
        "tribunal": {"sigla": "TJSP", "nome": "Tribunal TJSP", "segmento": "JUSTIÇA", "jtr": "826"},
        "ativo": True,
        "movimentos": [{"dataHora": "2025-02-01T10:00:00", "descricao": "Juntada de Documento"}],
        # The portal lists the newest first.
        "documentos": documents[::-1],
    }
    process = {
        "numeroProcesso": _NUMBER,
        "siglaTribunal": "TJSP",
        "nivelSigilo": 0,
        "tramitacaoAtual": course,
    }
    return orjson.dumps([process])


async def main(*, latency_s: float, documents: int, sizes: str, port: int) -> None:
    """Serve on 127.0.0.1 until the parent is gone."""
    parent = os.getppid()
    court = Court(documents, sizes)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(court, latency_s), "127.0.0.1", port, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v2", flush=True)
    while os.getppid() == parent:
        await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A portal for benchmarks.")
    parser.add_argument("--latency-s", type=float, default=0.15, help="seconds before each answer")
    parser.add_argument("--documents", type=int, default=30, help="of each process")
    parser.add_argument("--sizes", choices=("real", "tiny", "gib"), default="real")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; a free one for 0")
    uvloop.run(main(**vars(parser.parse_args())))
