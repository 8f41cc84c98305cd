"""The command line as its users run it: a program with an environment, an output and an end."""

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.core.settings import Settings
from tests.faults.children import ROOT, environment
from tests.world import until

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
                out, err = await process.communicate(stdin.encode(errors="surrogateescape"))
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

    @asynccontextmanager
    async def on_terminal(self, *arguments: str, columns: int, rows: int) -> AsyncIterator["Terminal"]:
        """Start a command on a terminal of this size."""
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
        terminal = Terminal(process)
        reading = asyncio.create_task(asyncio.to_thread(terminal.read, ours))
        try:
            yield terminal
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading  # it ends with the last of those who could write
            os.close(ours)

    async def run_on_terminal(self, *arguments: str, columns: int) -> Ran:
        """Run a command to its end on a terminal."""
        async with self.on_terminal(*arguments, columns=columns, rows=24) as terminal:
            return await terminal.end()


@dataclass
class Terminal:
    """A terminal, and what was written to it so far."""

    process: asyncio.subprocess.Process
    written: bytearray = field(default_factory=bytearray)

    def read(self, descriptor: int) -> None:
        """Read until the other side has been closed."""
        with suppress(OSError):  # which is how Linux says so
            while chunk := os.read(descriptor, 65_536):
                self.written += chunk

    async def wait_for(self, words: str) -> None:
        """Wait until these words were written."""
        await until(lambda: words.encode() in self.written, timeout_s=_TIMEOUT_S)

    async def end(self, *, by: signal.Signals | None = None) -> Ran:
        """Wait for the end, or bring it about."""
        if by is not None:
            self.process.send_signal(by)
        assert self.process.stderr
        async with asyncio.timeout(_TIMEOUT_S):
            err = await self.process.stderr.read()
            status = await self.process.wait()
        return Ran(status, self.written.decode(), err.decode())


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
