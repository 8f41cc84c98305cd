"""SIGTERM under load: the API loses no request, the worker fails no job."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from service.sandbox.cases import Special, special_number
from service.sandbox.children import free_port
from tests.conftest import MakeSettings
from tests.faults.members import Member, open_member, open_supervised
from tests.world import World, until

_CALLERS = 10


async def test_an_api_that_is_replaced_under_load_loses_no_request(api: World, tmp_path: Path) -> None:
    """Callers keep their connections; a proxy looks at /readyz and sends them to who is ready."""
    members = [
        Member("service", api.settings.model_copy(update={"port": free_port()}), tmp_path / f"{n}.log")
        for n in (1, 2)
    ]
    ready = [f"http://127.0.0.1:{member.settings.port}" for member in members]
    statuses, done = Counter[int](), asyncio.Event()
    caller = await api.caller()

    async def look() -> None:
        async with aiohttp.ClientSession() as http:
            while len(ready) == 2:
                async with http.get(f"{ready[0]}/readyz") as response:
                    if response.status == 503:
                        ready.pop(0)
                await asyncio.sleep(0.02)

    async def call(number: int) -> None:
        case = special_number(1_000_000 + number)
        async with aiohttp.ClientSession(headers={"X-API-Key": caller.key}) as http:
            while not done.is_set():
                async with http.post(f"{ready[0]}/jobs", json={"process_number": case}) as response:
                    await response.read()
                    statuses[response.status] += 1

    async with open_supervised(members):
        tasks = [asyncio.create_task(look()), *(asyncio.create_task(call(n)) for n in range(_CALLERS))]
        await until(lambda: statuses.total() > 10 * _CALLERS)
        members[0].signal(signal.SIGTERM)
        await until(lambda: members[0].ended == [0])
        seen = statuses.total()
        await until(lambda: statuses.total() > seen + 10 * _CALLERS)
        done.set()
        await asyncio.gather(*tasks)
    assert set(statuses) == {202}
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from jobs") == _CALLERS


async def test_a_worker_that_is_replaced_under_load_fails_no_job(api: World, tmp_path: Path) -> None:
    numbers = [special_number(1_000_000 + n) for n in range(6)] + [special_number(Special.THOUSAND)]
    caller = await api.caller()
    settings = api.settings.model_copy(update={"drain_s": 0.5, "lease_s": 30.0})
    async with (
        open_member("worker", settings, tmp_path / "1.log") as first,
        open_member("worker", settings, tmp_path / "2.log"),
    ):
        for number in numbers:
            await caller.get(f"/processes/{number}")
        await until(lambda: api.portal.binaries.total() > 100)
        first.signal(signal.SIGTERM)
        assert await first.wait() == 0
        # Long before any lease of the first one could run out.
        for number in numbers:
            assert (await caller.wait_until_final(number, timeout_s=20))["status"] == "completed"
    async with api.db.connection() as conn:
        assert await conn.fetchval("select max(crashes) + max(retries) from jobs") == 0
        assert await conn.fetchval("select max(attempts) from documents") == 1


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_a_process_that_has_nothing_to_do_ends_well_when_told_to(
    empty: None, make_settings: MakeSettings, tmp_path: Path, program: str
) -> None:
    log = tmp_path / "process.log"
    settings = make_settings(port=free_port(), drain_notice_s=0)
    async with open_member(program, settings, log) as member:
        await until(lambda: log.exists() and log.read_text() != "")
        member.signal(signal.SIGTERM)
        assert await member.wait() == 0
    assert "Traceback" not in log.read_text()
