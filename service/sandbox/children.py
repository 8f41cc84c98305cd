"""Child processes that end with us, however we end, and servers among them that are ready when given."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from service.sandbox.accounts import Account
from service.sandbox.state import SandboxError

_LAUNCHER = Path(__file__).with_name("launch.py")
_PORTS_TRIED = 3
_READY_TIMEOUT_S = 30.0
_READY_POLL_S = 0.02

# The operating system keeps a process's children for the whole process; so does this set.
_living: set["Child"] = set()


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to start, and how it is ended.

    Attributes:
        name: as it appears in messages.
        command: absolute path of the program, and its arguments.
        environ: the whole environment of the process.
        account: the user to run as; ours when None.
        log: file that gets standard output and error; ours when None.
        stop_signal: asks it to end in order.
        stop_timeout_s: how long it may take for that before it is killed.
        death_signal: ends it at once; the kernel sends it (on Linux) when we die without a word.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    cwd: Path | None = None
    account: Account | None = None
    log: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL


class Child:
    """A running program, leader of its own session: Ctrl-C at the terminal reaches only us."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self.program = program
        self._process = process

    @property
    def pid(self) -> int:
        """The process's number; of its process group too."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end and return the exit status, or minus the number of the signal that ended it."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, wait, and kill what is left; cancelled while waiting, kill at once."""
        if not self.is_running:
            return  # its number may be another process's by now
        try:
            with suppress(TimeoutError):
                self._process.send_signal(self.program.stop_signal)
                await asyncio.wait_for(self.wait(), self.program.stop_timeout_s)
        finally:
            _signal_group(self.pid, signal.SIGKILL)
            await self.wait()

    def kill(self) -> None:
        """End it at once."""
        if self.is_running:
            _signal_group(self.pid, self.program.death_signal)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def kill_all() -> None:
    """End every child of this process at once."""
    for child in _living:
        child.kill()


@asynccontextmanager
async def open_child(program: Program) -> AsyncIterator[Child]:
    """Start a program, and end it at the end of the block."""
    with _open_log(program.log) as output:
        process = await asyncio.create_subprocess_exec(
            *_launch_command(program),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(program.environ),
            cwd=program.cwd,
            start_new_session=True,
        )
    child = Child(program, process)
    _living.add(child)
    try:
        yield child
    finally:
        await child.stop()
        _living.discard(child)


@asynccontextmanager
async def open_server(
    program_at: Callable[[int], Program], *, ready: Callable[[int], Awaitable[bool]], port: int | None = None
) -> AsyncIterator[int]:
    """Start a server on a port of 127.0.0.1 and yield the port once the server is ready.

    Args:
        program_at: gives the program for a port.
        ready: asks the server at a port once; OSError counts as "not yet".
        port: the port to use; a free one when None.

    Raises:
        SandboxError: it does not start, or the given port is taken; with the end of its log.
    """
    async with AsyncExitStack() as stack:
        yield await _start_server(stack, program_at, ready, port)


async def _start_server(
    stack: AsyncExitStack,
    program_at: Callable[[int], Program],
    ready: Callable[[int], Awaitable[bool]],
    port: int | None,
) -> int:
    # A port found free may be taken by anybody before the server binds it: then another one is tried.
    for tries_left in reversed(range(_PORTS_TRIED if port is None else 1)):
        chosen = free_port() if port is None else port
        if not is_free("127.0.0.1", chosen):
            raise SandboxError(f"port {chosen} of 127.0.0.1 is taken")
        program = program_at(chosen)
        child = await stack.enter_async_context(open_child(program))
        if await _until_ready(child, partial(ready, chosen)):
            return chosen
        if not tries_left or child.is_running:
            raise SandboxError(f"{program.name} did not start:\n{end_of_log(program.log)}")
    raise AssertionError("the last try returns or raises")


async def _until_ready(child: Child, ready: Callable[[], Awaitable[bool]]) -> bool:
    """Ask until the server is ready; False when it ended instead or took too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while child.is_running:
                with suppress(OSError):
                    if await ready() and child.is_running:
                        return True
                await asyncio.sleep(_READY_POLL_S)
    return False


async def run_to_end(program: Program) -> None:
    """Run a program that ends by itself.

    Raises:
        SandboxError: it failed; with the end of its log.
    """
    async with open_child(program) as child:
        status = await child.wait()
    if status != 0:
        raise SandboxError(f"{program.name} failed ({describe_end(status)}):\n{end_of_log(program.log)}")


def describe_end(status: int) -> str:
    """Put an exit status in words: `exit status 1`, `SIGKILL`."""
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def end_of_log(log: Path | None, *, lines: int = 12) -> str:
    """Return the last lines of a log, indented; where to look when there is none."""
    if log is None or not log.exists():
        return "  see the output above"
    last = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in last) or f"  it said nothing in {log}"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: connections that linger from a server that has ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _launch_command(program: Program) -> list[str]:
    account = program.account or Account(-1, -1)
    numbers = (os.getpid(), int(program.death_signal), account.uid, account.gid)
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, numbers), *program.command]


@contextmanager
def _open_log(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    with log.open("wb") as file:
        yield file
