"""The processes of a running Autos, as an operator's supervisor sees them."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from service.core.crash_points import Point
from service.core.settings import Settings
from tests.faults.children import ROOT, environment

_RESTART_PAUSE_S = 0.3


class Member:
    """One process of ours.

    Attributes:
        settings: `host` and `port` are where others reach it, if it is an API.
        log: everything that it and its successors wrote.
        enter: the command that runs another one where it is to live; none for here.
        ended: the exit statuses of those that have ended, negative for signals.
    """

    def __init__(self, program: str, settings: Settings, log: Path, *, enter: Sequence[str] = ()) -> None:
        self.program = program
        self.settings = settings
        self.log = log
        self.enter = enter
        self.ended: list[int] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The number of the living process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it lives (a stopped one does)."""
        return self._process is not None and self._process.returncode is None

    async def start(
        self, crash_point: Point | None = None, *, variables: Mapping[str, str] | None = None
    ) -> None:
        """Start it, with more environment variables; with a crash point it ends itself there."""
        variables = environment(self.settings) | dict(variables or {})
        if crash_point:
            variables["AUTOS_CRASH_POINT"] = crash_point
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*self.enter, sys.executable, "-m", self.program),
                env=variables,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    async def wait(self, *, timeout_s: float = 60) -> int:
        """Wait for its end and return the exit status."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.is_running and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def keep_running(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await self.start()
            assert self._process is not None
            self.ended.append(await self._process.wait())
            await asyncio.sleep(_RESTART_PAUSE_S)

    async def stop(self, *, timeout_s: float = 20) -> None:
        """End it as a deploy does, and in the end by force."""
        if not self.is_running:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            await self.wait(timeout_s=timeout_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()


@asynccontextmanager
async def open_member(
    program: str, settings: Settings, log: Path, *, crash_point: Point | None = None
) -> AsyncIterator[Member]:
    """Run one process until the block ends; an API has begun to answer when it is yielded."""
    member = Member(program, settings, log)
    await member.start(crash_point)
    try:
        if program == "service":
            await until_it_listens(settings.port, settings.host)
        yield member
    finally:
        await member.stop()


@asynccontextmanager
async def open_supervised(members: list[Member]) -> AsyncIterator[None]:
    """Keep the processes running until the block ends, then end them as a deploy does."""
    tasks = [asyncio.create_task(member.keep_running()) for member in members]
    try:
        for member in members:
            if member.program == "service":
                await until_it_listens(member.settings.port, member.settings.host)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(*(member.stop() for member in members))


async def until_it_listens(port: int, address: str = "127.0.0.1") -> None:
    """Wait until somebody listens on a port."""
    async with asyncio.timeout(30):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(address, port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)
