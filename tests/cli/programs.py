"""The command line as its users run it: a program with an environment, an output and an end."""

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.core.settings import Settings
from tests.faults.children import ROOT, environment

_TIMEOUT_S = 60


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.splitlines()


@dataclass(frozen=True)
class CommandLine:
    """`python -m service` for one caller: where the API is, and with which key."""

    settings: Settings
    url: str
    key: str

    def environ(self) -> dict[str, str]:
        """The environment of every command."""
        return {**environment(self.settings), "AUTOS_URL": self.url, "AUTOS_KEY": self.key}

    async def run(self, *arguments: str, stdin: str = "", cwd: Path = ROOT) -> Ran:
        """Run a command to its end."""
        process = await asyncio.create_subprocess_exec(
            *_program(arguments),
            env={**self.environ(), "PYTHONPATH": str(ROOT)},
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator["Running"]:
        """Start a command that goes on until it is interrupted, as by Ctrl-C."""
        process = await asyncio.create_subprocess_exec(
            *_program(arguments),
            env=self.environ(),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def run_on_terminal(self, *arguments: str, columns: int = 80, rows: int = 24) -> Ran:
        """Run a command to its end on a terminal of this size."""
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *_program(arguments),
            env={**self.environ(), "TERM": "xterm"},
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(theirs)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, _ = await asyncio.gather(asyncio.to_thread(_read_terminal, ours), process.wait())
                assert process.stderr
                err = await process.stderr.read()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(ours)
        return Ran(process.returncode or 0, out.decode(), err.decode())


@dataclass
class Running:
    """A command that has not ended, and what it has said."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def read_until(self, words: str) -> str:
        """Read its output up to the first line that has these words in it."""
        assert self.process.stdout
        async with asyncio.timeout(_TIMEOUT_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
                if words in line:
                    return line.rstrip("\n")
        raise AssertionError(f"it ended without {words!r}: {self.lines}")

    async def interrupt(self) -> Ran:
        """Press Ctrl-C, and wait for the end."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ran(self.process.returncode, out.decode(), err.decode())


def _program(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "service", *arguments]


def _read_terminal(descriptor: int) -> bytes:
    read = bytearray()
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # what Linux says when the other side has been closed
            return bytes(read)
        if not chunk:
            return bytes(read)
        read += chunk
