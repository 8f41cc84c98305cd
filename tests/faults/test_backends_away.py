"""PostgreSQL and Redis refuse, fall silent or are cut off: what callers hear, and who survives it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from service.core.settings import Settings
from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.faults.members import open_member
from tests.faults.proxy import FaultProxy, Mood, open_proxy
from tests.world import Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"
# A guard against hanging, no measure of speed: a busy machine may take its time.
_NOT_FOR_EVER_S = 15
# A busy machine may hold up a worker for longer than that, time and again.
_SHORT_LEASE = {"lease_s": 2.0, "max_crashes": 100}
AWAY = [Mood.REFUSED, Mood.SILENT, Mood.DEAF]


@dataclass
class Behind:
    """An API whose backends are behind proxies; `settings` are for more processes like it."""

    world: World
    caller: Caller
    postgres: FaultProxy
    redis: FaultProxy
    settings: Settings


@pytest.fixture
async def behind(
    empty: None, make_settings: MakeSettings, database_url: str, redis_url: str
) -> AsyncIterator[Behind]:
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(open_proxy(port_of(database_url)))
        redis = await stack.enter_async_context(open_proxy(port_of(redis_url)))
        settings = make_settings(
            database_url=with_port(database_url, postgres.port), redis_url=with_port(redis_url, redis.port)
        )
        world = await stack.enter_async_context(open_world(settings, with_worker=False))
        yield Behind(world, await world.caller(), postgres, redis, world.settings)
        for proxy in (postgres, redis):
            await proxy.set_mood(Mood.THROUGH)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    host = (parts.netloc.rpartition("@")[0] + "@") if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{host}127.0.0.1:{port}"))


@pytest.mark.parametrize("mood", AWAY)
async def test_while_postgresql_is_away_callers_hear_503_and_are_served_again_afterwards(
    behind: Behind, mood: Mood
) -> None:
    caller = behind.caller
    assert (await caller.get(f"/processes/{CASE}")).status == 200
    await behind.postgres.set_mood(mood)
    async with asyncio.timeout(_NOT_FOR_EVER_S):
        answers = await asyncio.gather(
            *(caller.get(f"/processes/{CASE}") for _ in range(20)),
            *(caller.post("/jobs", json={"process_number": CASE}) for _ in range(20)),
            caller.get("/readyz"),
        )
    assert {answer.status for answer in answers} == {503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    await behind.postgres.set_mood(Mood.THROUGH)
    await _until_it_answers(caller, CASE)


async def _until_it_answers(caller: Caller, number: str) -> None:
    """No restart: the pool finds the server again by itself."""
    async with asyncio.timeout(10):
        while (await caller.get(f"/processes/{number}/status")).status != 200:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("mood", AWAY)
async def test_while_redis_is_away_jobs_are_taken(behind: Behind, mood: Mood) -> None:
    await behind.redis.set_mood(mood)
    for number in range(3):
        async with asyncio.timeout(_NOT_FOR_EVER_S):
            case = special_number(1_000_000 + number)
            answer = await behind.caller.post("/jobs", json={"process_number": case})
        assert answer.status == 202


@pytest.mark.parametrize(
    "mood", [pytest.param(one, marks=() if one is Mood.SILENT else pytest.mark.long) for one in AWAY]
)
@pytest.mark.parametrize("which", ["postgres", "redis"])
async def test_a_worker_outlives_its_backends(
    behind: Behind, database_url: str, which: str, mood: Mood, tmp_path: Path
) -> None:
    """Cut off in mid-job (from PostgreSQL beyond its lease), it goes on by itself when they are back."""
    number = special_number(Special.THOUSAND)
    proxy = behind.postgres if which == "postgres" else behind.redis
    settings = behind.settings.model_copy(update=_SHORT_LEASE | {"downloads_per_job": 4})
    async with open_member("worker", settings, tmp_path / "worker.log") as worker:
        await behind.caller.get(f"/processes/{number}")
        await until(lambda: behind.world.portal.binaries.total() > 50)
        await proxy.set_mood(mood)
        if which == "postgres":
            await _until_its_lease_is_lost(database_url)
        else:
            await until(lambda: "polling again soon" in (tmp_path / "worker.log").read_text())
        await proxy.set_mood(Mood.THROUGH)
        await _until_it_answers(behind.caller, number)
        assert (await behind.caller.wait_until_final(number))["status"] == "completed"
        assert worker.is_running


async def _until_its_lease_is_lost(database_url: str) -> None:
    """By a connection of our own, past the proxy."""
    conn = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while not await conn.fetchval("select bool_or(lease_until < now()) from jobs"):
                await asyncio.sleep(0.05)
    finally:
        await conn.close()


async def test_a_worker_keeps_what_it_fetched_while_postgresql_is_away_for_less_than_its_lease(
    behind: Behind, tmp_path: Path
) -> None:
    number = special_number(Special.THOUSAND)
    settings = behind.settings.model_copy(update={"lease_s": 15.0})
    async with open_member("worker", settings, tmp_path / "worker.log"):
        await behind.caller.get(f"/processes/{number}")
        await until(lambda: behind.world.portal.binaries.total() > 50)
        await behind.postgres.set_mood(Mood.REFUSED)
        seen = behind.world.portal.binaries.total()
        await until(lambda: behind.world.portal.binaries.total() > seen + 100)
        await behind.postgres.set_mood(Mood.THROUGH)
        await _until_it_answers(behind.caller, number)
        await behind.caller.wait_until_final(number)
    assert set(behind.world.portal.binaries.values()) == {1}


async def test_a_worker_that_was_stopped_beyond_its_lease_harms_nothing(
    behind: Behind, tmp_path: Path
) -> None:
    """Another one has finished its job when it wakes up; what it still writes touches no row."""
    number = special_number(Special.THOUSAND)
    settings = behind.settings.model_copy(update=_SHORT_LEASE)
    async with open_member("worker", settings, tmp_path / "1.log") as first:
        await behind.caller.get(f"/processes/{number}")
        await until(lambda: behind.world.portal.binaries.total() > 50)
        first.signal(signal.SIGSTOP)
        async with open_member("worker", settings, tmp_path / "2.log"):
            final = await behind.caller.wait_until_final(number, timeout_s=150)
        first.signal(signal.SIGCONT)
        await until(lambda: "no longer ours" in (tmp_path / "1.log").read_text())
    assert final["status"] == "completed"
    now = (await behind.caller.get(f"/processes/{number}/status")).json
    assert (now["sequence"], now["status"]) == (final["sequence"], "completed")
    assert {one["attempts"] for one in now["documents"]} == {1}
