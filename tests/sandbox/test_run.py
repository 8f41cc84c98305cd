import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.sandbox.children import Program, free_port, open_child
from service.sandbox.plan import API_KEY, ROOT, read_plan
from service.sandbox.restarts import keep_running
from service.sandbox.run import CASE, open_site
from service.sandbox.state import SandboxError
from tests.sandbox.processes import command_of, descendants, running

KEY = {"X-API-Key": API_KEY}

# Says its number to a socket and waits to be ended.
REPORTER = """
import os, signal, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as report:
    report.sendall(b"%d\\n" % os.getpid())
signal.pause()
"""

STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"deaf\\n")
while True:
    signal.pause()
"""


class Sandbox:
    """A `python -m service.sandbox` of our own, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.printed = ""

    async def until(self, text: str, *, timeout_s: float = 60) -> str:
        """Read on until a line holds the text; return everything so far."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while line := (await self.process.stdout.readline()).decode():
                self.printed += line
                if text in line:
                    return self.printed
        raise AssertionError(f"ended without {text!r}:\n{self.printed}")


@asynccontextmanager
async def _open_sandbox(folder: str, port: int) -> AsyncIterator[Sandbox]:
    # On servers of its own, whatever the rest of the suite was given.
    others = ("AUTOS_", "AWS_", "DATABASE_URL", "REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.sandbox",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT,
        env={**kept, "AUTOS_SANDBOX_DIR": folder, "AUTOS_PORT": str(port)},
    )  # fmt: skip
    try:
        yield Sandbox(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder that PostgreSQL's account can get into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="autos-test-") as name:
        Path(name).chmod(0o711)
        yield name


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url, headers=KEY) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def _wait_for_webhook(session: aiohttp.ClientSession, sandbox: Sandbox, receiver: str) -> Any:
    await sandbox.until("webhook: job.completed")
    (received,) = await _get(session, receiver)
    return received


async def test_the_sandbox_runs_a_case_outlives_its_worker_and_ends_without_a_trace(folder: str) -> None:
    async with _open_sandbox(folder, free_port()) as sandbox, aiohttp.ClientSession() as session:
        banner = await sandbox.until("the README lists them all")
        started = descendants(sandbox.process.pid)
        match = re.search(r"receiver +(http://\S+)", banner)
        assert match is not None

        worker = next(pid for pid in started if "worker" in command_of(pid))
        os.kill(worker, signal.SIGKILL)
        await sandbox.until("the worker ended (SIGKILL), starting it again")

        await _get(session, f"{sandbox.url}/processes/{CASE}?webhook_url={match[1]}")
        received = await _wait_for_webhook(session, sandbox, match[1])
        assert received["valid"] is True
        assert received["body"]["completed_documents"] == 26
        status = await _get(session, f"{sandbox.url}/processes/{CASE}/status")
        assert status["progress_percentage"] == 100

        started |= descendants(sandbox.process.pid)
        sandbox.process.send_signal(signal.SIGINT)
        await sandbox.until("sandbox: stopped")
        assert await sandbox.process.wait() == 0
        assert not running(started)


async def test_a_signal_while_it_starts_ends_it_too(folder: str) -> None:
    async with _open_sandbox(folder, free_port()) as sandbox:
        await sandbox.until("sandbox: starting")
        sandbox.process.send_signal(signal.SIGTERM)
        await sandbox.until("sandbox: stopped")
        assert await sandbox.process.wait() == 0


async def test_a_port_in_use_is_one_clear_line(folder: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with _open_sandbox(folder, port) as sandbox:
            printed, _ = await asyncio.wait_for(sandbox.process.communicate(), 30)
            assert sandbox.process.returncode == 1
    assert printed.decode() == f"sandbox: port {port} of 127.0.0.1 is taken; try AUTOS_PORT={port + 100}\n"


async def test_a_program_that_dies_is_started_again_and_ended_with_the_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports: asyncio.Queue[int] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reports.put_nowait(int(await reader.readline()))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        command = [sys.executable, "-c", REPORTER, str(server.sockets[0].getsockname()[1])]
        async with keep_running([Program(name="reporter", command=command, environ={})]):
            first = await asyncio.wait_for(reports.get(), 10)
            os.kill(first, signal.SIGKILL)
            second = await asyncio.wait_for(reports.get(), 10)
            assert running({first, second}) == {second}
        assert not running({second})
    assert capsys.readouterr().out == "sandbox: the reporter ended (SIGKILL), starting it again\n"


async def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    pipe = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    heard = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe, heard.set)
    command = [sys.executable, "-c", STUBBORN]
    program = Program(name="stubborn", command=command, environ={}, log=log, stop_timeout_s=0.1)
    try:
        async with open_child(program) as child:
            await asyncio.wait_for(heard.wait(), 10)
        assert await child.wait() == -signal.SIGKILL
    finally:
        asyncio.get_running_loop().remove_reader(pipe)
        os.close(pipe)


async def test_a_site_whose_port_is_taken_moves_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_site(aiohttp.web.Application(), port=port) as url:
            assert url != f"http://127.0.0.1:{port}"


def test_what_the_caller_sets_wins_over_the_sandboxs_knobs() -> None:
    plan = read_plan({"AUTOS_LEASE_S": "60", "AUTOS_PORT": "8100", "DATABASE_URL": "theirs"})
    environ = plan.environ({"DATABASE_URL": "ours"}, "http://127.0.0.1:1/api/v2", "http://127.0.0.1:2/api/v1")
    assert environ["AUTOS_LEASE_S"] == "60"
    assert environ["AUTOS_DRAIN_S"] == "5"
    assert environ["AUTOS_PUBLIC_URL"] == "http://127.0.0.1:8100"
    assert environ["DATABASE_URL"] == "ours"


def test_a_portal_of_the_callers_own_never_gets_the_sandboxs_token() -> None:
    plan = read_plan({"AUTOS_PORTAL_URL": "https://portal.example"})
    environ = plan.environ({}, "http://127.0.0.1:1/api/v2", "http://127.0.0.1:2/api/v1")
    assert environ["AUTOS_PORTAL_URL"] == "https://portal.example"
    assert "AUTOS_PORTAL_TOKEN" not in environ
    assert "AUTOS_SOURCE_BY_COURT" not in environ


@pytest.mark.parametrize(
    ("name", "value"), [("AUTOS_PORT", "http"), ("AUTOS_PORT", "65536"), ("AUTOS_SANDBOX_LATENCY_S", "-1")]
)
def test_a_number_that_is_none_is_named(name: str, value: str) -> None:
    with pytest.raises(SandboxError, match=name):
        read_plan({name: value})


def test_a_signing_secret_that_is_none_is_named(tmp_path: Path) -> None:
    environ = {"AUTOS_SANDBOX_WEBHOOK_SECRET": "secret", "AUTOS_SANDBOX_DIR": str(tmp_path)}
    with pytest.raises(SandboxError, match="AUTOS_SANDBOX_WEBHOOK_SECRET: a signing secret"):
        read_plan(environ).webhook_secret()
