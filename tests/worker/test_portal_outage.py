"""The portal fails for everybody for a while: jobs wait and lose nothing, and the portal is left alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import cast

import pytest
from redis.asyncio import Redis

from service.core.portal_shared import state_key
from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.world import Caller, World, open_world

# Valid numbers of ordinary cases.
CASES = [
    "1003579-22.2025.8.26.0564",
    "1000145-91.2023.8.26.0597",
    "0919992-11.2023.8.19.0001",
    "5316779-54.2023.8.13.0024",
]
FAILURES = 3


@pytest.fixture
async def world(empty: None, make_settings: MakeSettings) -> AsyncIterator[World]:
    """A running Autos whose breaker opens soon."""
    async with open_world(make_settings(portal_breaker_failures=FAILURES)) as opened:
        yield opened


async def _waits(world: World, caller: Caller, number: str) -> None:
    """Wait until the job of this process waits for the portal."""
    async with asyncio.timeout(30):
        while True:
            status = (await caller.get(f"/processes/{number}/status")).json
            assert status["status"] in ("pending", "processing")
            if status["waiting_reason"] == "portal_unavailable":
                return


async def _open_ms(redis: Redis) -> int:
    return int(await cast("Awaitable[bytes | None]", redis.hget(state_key("portal"), "open_ms")) or 0)


async def _times_opened(redis: Redis, world: World, times: int) -> None:
    """Wait until the breaker has opened so many times without a success in between."""
    async with asyncio.timeout(30):
        while await _open_ms(redis) < world.settings.portal_breaker_open_s * 1000 * 2 ** (times - 1):
            await asyncio.sleep(0.02)


async def _retries(world: World) -> list[int]:
    async with world.db.connection() as conn:
        return [row["retries"] for row in await conn.fetch("select retries from jobs")]


async def _attempts(world: World) -> set[int]:
    async with world.db.connection() as conn:
        return {row["attempts"] for row in await conn.fetch("select distinct attempts from documents")}


async def test_jobs_wait_for_the_end_of_an_outage_and_spend_nothing(world: World, redis_url: str) -> None:
    world.portal.outage = 503
    caller = await world.caller()
    for number in CASES:
        await caller.get(f"/processes/{number}")
    for number in CASES:
        await _waits(world, caller, number)
    async with Redis.from_url(redis_url) as redis:
        await _times_opened(redis, world, 4)
        asked = world.portal.turned_away
        probes = (await _open_ms(redis) // 300).bit_length() - 1
    # Until it opened, each job had one request under way; since then there were only probes.
    assert asked <= FAILURES - 1 + len(CASES) + probes + 1
    world.portal.outage = None
    for number in CASES:
        assert (await caller.wait_until_final(number))["status"] == "completed"
    assert await _retries(world) == [0] * len(CASES)
    assert await _attempts(world) == {1}


@pytest.mark.parametrize("status", [502, 503])
async def test_an_outage_in_the_middle_of_a_job_costs_its_documents_no_attempt(
    world: World, status: int
) -> None:
    """It costs the job one run of its schedule: the documents themselves could be what always fails."""
    number = special_number(Special.THOUSAND)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    async with asyncio.timeout(30):
        while sum(world.portal.binaries.values()) < 100:
            await asyncio.sleep(0.01)
    world.portal.outage = status
    await _waits(world, caller, number)
    async with world.db.connection() as conn:
        rows = await conn.fetch("select status, attempts from documents")
    assert {row["attempts"] for row in rows if row["status"] == "pending"} == {0}
    assert {row["status"] for row in rows} == {"available", "pending"}
    world.portal.outage = None
    assert (await caller.wait_until_final(number))["status"] == "completed"
    assert await _retries(world) == [1]
    assert await _attempts(world) == {1}


async def test_an_outage_is_waited_for_until_the_deadline(empty: None, make_settings: MakeSettings) -> None:
    settings = make_settings(portal_breaker_failures=FAILURES, job_deadline_s=3)
    async with open_world(settings) as world:
        world.portal.outage = 503
        caller = await world.caller()
        await caller.get(f"/processes/{CASES[0]}")
        await _waits(world, caller, CASES[0])
        final = await caller.wait_until_final(CASES[0])
        assert (final["status"], final["error_code"]) == ("failed", "deadline_exceeded")
        assert await _retries(world) == [0]
