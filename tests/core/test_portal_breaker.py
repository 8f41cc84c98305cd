"""The breaker: a portal that keeps failing is left alone by all workers, then probed by one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import cast

import pytest
from redis.asyncio import Redis

from service.core.errors import (
    BadContentError,
    CodexFailureError,
    NoAccessError,
    PortalBlockedError,
    PortalBreakerOpenError,
    PortalError,
    PortalOverloadedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    StorageUnavailableError,
)
from service.core.portal_limit import STATE, PortalLimit, open_portal_limit
from service.core.settings import Settings

SETTINGS = Settings(
    portal_concurrency=8,
    portal_concurrency_start=4,
    portal_breaker_failures=3,
    portal_breaker_open_s=60,
)
FAILURE = PortalUnavailableError("502")
pytestmark = pytest.mark.integration


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def two(redis: Redis) -> AsyncIterator[tuple[PortalLimit, PortalLimit]]:
    """Two workers on one Redis."""
    async with open_portal_limit(redis, SETTINGS) as one, open_portal_limit(redis, SETTINGS) as other:
        yield one, other


async def _request(limit: PortalLimit, ends_with: Exception | None = None) -> bool:
    """Make one request that ends so; return whether it was let through."""
    try:
        async with limit.slot():
            if ends_with:
                raise ends_with
    except PortalBreakerOpenError:
        return False
    except type(ends_with or FAILURE):
        return True
    return True


async def _number(redis: Redis, name: str) -> int:
    return int(await cast("Awaitable[bytes]", redis.hget(STATE, name)))


async def _let_time_pass(redis: Redis) -> None:
    """Move the instant at which it may be probed to now."""
    await cast("Awaitable[int]", redis.hset(STATE, "open_until", "1"))


async def _open(redis: Redis, *limits: PortalLimit) -> None:
    for number in range(3):
        assert await _request(limits[number % len(limits)], FAILURE)
    assert await _number(redis, "open_ms") == 60_000


async def test_failures_in_a_row_over_all_workers_open_it_for_all(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await _open(redis, *two)
    for limit in two:
        with pytest.raises(PortalBreakerOpenError) as refused:
            async with limit.slot():
                pytest.fail("it was let through")
        assert refused.value.code == "portal_unavailable"
        assert 55 < (refused.value.retry_after_s or 0) <= 75


@pytest.mark.parametrize("answer", [None, ProcessNotFoundError(""), NoAccessError(""), CodexFailureError("")])
async def test_any_answer_ends_the_row(
    two: tuple[PortalLimit, PortalLimit], answer: PortalError | None
) -> None:
    """The other worker's too, which has seen no failure of its own."""
    for _ in range(4):
        for _ in range(2):
            assert await _request(two[0], FAILURE)
        assert await _request(two[1], answer)
    assert await _request(two[0])


@pytest.mark.parametrize("error", [BadContentError(""), PortalBlockedError(""), StorageUnavailableError("")])
async def test_what_says_nothing_of_the_portal_counts_neither_way(
    redis: Redis, two: tuple[PortalLimit, PortalLimit], error: Exception
) -> None:
    for _ in range(9):
        assert await _request(two[0], error)
    assert await _request(two[0], FAILURE)
    assert await _request(two[0], error)
    assert await _number(redis, "failures") == 1


async def test_who_waits_for_a_place_is_told_when_it_opens(two: tuple[PortalLimit, PortalLimit]) -> None:
    one, other = two
    release, held = asyncio.Event(), asyncio.Semaphore(0)

    async def fail_when_told() -> None:
        with suppress(PortalUnavailableError):
            async with one.slot():
                held.release()
                await release.wait()
                raise FAILURE

    failing = [asyncio.create_task(fail_when_told()) for _ in range(4)]
    for _ in failing:
        await held.acquire()
    waiting = asyncio.create_task(_request(other))
    await asyncio.sleep(0)
    release.set()
    assert await waiting is False
    await asyncio.gather(*failing)


async def test_when_its_time_has_passed_one_request_probes(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await _open(redis, *two)
    await _let_time_pass(redis)
    async with two[0].slot():
        assert [await _request(limit) for limit in (*two, *two)] == [False] * 4
    assert [await _request(limit) for limit in (*two, *two)] == [True] * 4


async def test_a_probe_that_vanishes_gives_its_turn_away(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await _open(redis, *two)
    await _let_time_pass(redis)
    assert await _request(two[0], StorageUnavailableError(""))  # it said nothing
    assert not await _request(two[1])
    await cast("Awaitable[int]", redis.hset(STATE, "probe_until", "1"))
    assert await _request(two[1])


async def test_each_probe_that_fails_doubles_the_time_up_to_five_minutes(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await _open(redis, *two)
    times_s = []
    for _ in range(4):
        await _let_time_pass(redis)
        assert await _request(two[0], FAILURE)
        assert not await _request(two[1])
        times_s.append(await _number(redis, "open_ms") / 1000)
    assert times_s == [120, 240, 300, 300]


async def test_after_the_probe_the_limit_begins_low(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await cast("Awaitable[int]", redis.hset(STATE, "limit", "8"))
    await _open(redis, *two)
    await _let_time_pass(redis)
    assert await _request(two[0])
    assert await _number(redis, "limit") == 4


async def test_failures_that_began_before_it_opened_change_nothing(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await _open(redis, *two)
    for limit in (*two, *two, *two):
        await limit.failed()
    assert await _number(redis, "open_ms") == 60_000


async def test_an_overloaded_portal_halves_the_limit_and_is_given_the_time_it_asks_for(
    redis: Redis, two: tuple[PortalLimit, PortalLimit]
) -> None:
    await cast("Awaitable[int]", redis.hset(STATE, "limit", "8"))
    assert await _request(two[0], PortalOverloadedError("503"))
    assert await _number(redis, "limit") == 4
    assert await _request(two[1])  # it asked for no pause
    assert await _request(two[0], PortalOverloadedError("503", retry_after_s=1e9))
    seconds, _ = await redis.time()
    assert 3500 < await _number(redis, "paused_until") / 1000 - seconds <= 3601
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), two[1].slot():
            pytest.fail("it was let through")


async def test_without_redis_each_process_has_a_breaker_of_its_own() -> None:
    settings = SETTINGS.model_copy(update={"portal_breaker_open_s": 0.2})
    async with Redis.from_url("redis://127.0.0.1:1") as away, open_portal_limit(away, settings) as limit:
        for _ in range(3):
            assert await _request(limit, FAILURE)
        assert not await _request(limit)
        async with asyncio.timeout(10):
            while not await _request(limit, FAILURE):
                await asyncio.sleep(0.02)
        assert not await _request(limit)  # the probe failed
        async with asyncio.timeout(10):
            while not await _request(limit):
                await asyncio.sleep(0.02)
        assert await _request(limit)
