"""A TCP proxy that a test makes misbehave: what stands between us and every server."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum

_CHUNK_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Mood(Enum):
    """How the proxy treats connections, those that are open included."""

    THROUGH = "through"
    REFUSED = "refused"  # nobody listens; what was open is reset
    SILENT = "silent"  # connections are taken and kept, and not a byte passes
    DEAF = "deaf"  # what is asked arrives, and every answer is lost
    CANNED = "canned"  # every connection gets the same answer, whatever it asks


class FaultProxy:
    """Forwards a port of one address to another of 127.0.0.1, as its mood allows.

    Attributes:
        address: where it listens.
        port: stays the same in every mood.
        target: the port behind it; may be changed when a server was started anew.
        canned: what is answered in that mood.
        lose_answers_to: a connection that is asked this has it passed on, and is cut by the answer.
    """

    def __init__(self, target: int, address: str) -> None:
        self.target = target
        self.address = address
        self.port = 0
        self.canned = b""
        self.lose_answers_to: bytes | None = None
        self._mood = Mood.THROUGH
        self._through = asyncio.Event()
        self._through.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def set_mood(self, mood: Mood) -> None:
        """Change how connections are treated, from the next byte on."""
        self._mood = mood
        if mood is Mood.SILENT:
            self._through.clear()
        else:
            self._through.set()
        if mood is Mood.REFUSED:
            await self._close_server()
            self.reset()
        elif self._server is None:
            await self._listen()

    def reset(self) -> None:
        """Cut every connection, on both sides, with an RST."""
        for writer in self._writers:
            _reset(writer)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            if self._mood is Mood.CANNED:
                await self._answer_canned(reader, writer)
            else:
                await self._forward(reader, writer)
        except OSError:
            _reset(writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer_canned(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(_CHUNK_BYTES)
        writer.write(self.canned)
        await writer.drain()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._through.wait()
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(there_writer)
        pair = _Pair()
        try:
            await asyncio.gather(
                self._pass_on_requests(reader, there_writer, pair),
                self._pass_on_answers(there_reader, writer, pair),
            )
        finally:
            self._writers.discard(there_writer)
            there_writer.close()

    async def _pass_on_requests(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, pair: "_Pair"
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._through.wait()
            if self.lose_answers_to and self.lose_answers_to in data:
                pair.is_deaf = True
            there.write(data)
            await there.drain()
        with suppress(OSError):
            there.write_eof()

    async def _pass_on_answers(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: "_Pair"
    ) -> None:
        while data := await there.read(_CHUNK_BYTES):
            await self._through.wait()
            if pair.is_deaf or self._mood is Mood.DEAF:
                _reset(writer)
                return
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def close(self) -> None:
        """Cut everything and listen no more."""
        await self._close_server()
        self._through.set()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@dataclass
class _Pair:
    """Two connections that belong together; once deaf, the next answer cuts them."""

    is_deaf: bool = False


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def open_proxy(target: int, *, address: str = "127.0.0.1") -> AsyncIterator[FaultProxy]:
    """Open a proxy to a port of 127.0.0.1, on a free port of an address of ours."""
    proxy = FaultProxy(target, address)
    await proxy.set_mood(Mood.THROUGH)
    try:
        yield proxy
    finally:
        await proxy.close()
