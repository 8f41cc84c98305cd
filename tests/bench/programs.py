"""Programs that a benchmark starts: what they say, what processor time and memory they take (Linux)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.faults.children import ROOT

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_TIMEOUT_S = 15.0


class Program:
    """A child, with everybody that it started itself."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, *, timeout_s: float = 60.0) -> str:
        """Return the next line that it says."""
        assert self._process.stdout
        async with asyncio.timeout(timeout_s):
            line = (await self._process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError("the program has ended, or says nothing")
        return line

    async def ask(self, line: str, *, timeout_s: float) -> str:
        """Tell it a line and return its answer."""
        assert self._process.stdin
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        return await self.line(timeout_s=timeout_s)

    async def ended(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it ended badly.
        """
        if await self._process.wait():
            raise RuntimeError(f"the program ended with {self._process.returncode}")

    @property
    def pid(self) -> int:
        """The number of the child itself."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the processor time of all of them, of those that have ended too."""
        return sum(_cpu_s(pid) for pid in self._pids())

    def resident_bytes(self) -> int:
        """Return the memory that they have resident now, added up."""
        return sum(_status_bytes(pid, "VmRSS") for pid in self._pids())

    def peak_bytes(self) -> int:
        """Return the most that each had resident since `forget_peak`, added up."""
        return sum(_status_bytes(pid, "VmHWM") for pid in self._pids())

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        for pid in self._pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _pids(self) -> list[int]:
        return list(_family(self._process.pid, _children()))


@asynccontextmanager
async def open_program(
    *command: str, environ: Mapping[str, str], ready: str | None = None
) -> AsyncIterator[Program]:
    """Run a command from the top of the checkout until the block ends.

    Args:
        command: after `python`.
        ready: the line to wait for.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", **environ},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    program = Program(process)
    try:
        while ready is not None and await program.line() != ready:
            pass
        yield program
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


def _children() -> dict[int, list[int]]:
    """The children of every process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                children.setdefault(int(_stat(int(folder.name))[1]), []).append(int(folder.name))
    return children


def _family(pid: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _family(child, children)


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold spaces: state, parent, … (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    try:
        own_and_ended = _stat(pid)[11:15]
    except OSError:
        return 0.0
    return sum(map(int, own_and_ended)) / _TICKS_PER_S


def _status_bytes(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
