"""The breaker before the portal: shared over all workers, and each process's own while Redis is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import cast

import pytest
from redis.asyncio import Redis

from service.core.errors import (
    AutosError,
    BadContentError,
    CodexFailureError,
    PortalBreakerOpenError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
    StorageUnavailableError,
)
from service.core.portal_limit import PortalLimit, open_portal_limit
from service.core.portal_own import OwnPlaces
from service.core.portal_shared import holders_key, state_key
from service.core.settings import Settings

HOLDERS, STATE = holders_key("portal"), state_key("portal")
ONE = Settings(portal_concurrency=7, portal_concurrency_start=4, portal_breaker_failures=1)
THREE = ONE.model_copy(update={"portal_breaker_failures": 3})

Slot = AbstractAsyncContextManager[None]

NEITHER = [
    BadContentError("the web page"),
    CodexFailureError("no file"),
    ProcessNotFoundError("404"),
    RefusedError("400"),
    PortalThrottledError("429", retry_after_s=0),
    PortalUnauthorizedError("401"),
    StorageUnavailableError("S3"),
]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def one(redis: Redis) -> AsyncIterator[PortalLimit]:
    """A worker whose first failure opens the breaker."""
    async with open_portal_limit(redis, ONE.portal) as limit:
        yield limit


@pytest.fixture
async def two(redis: Redis) -> AsyncIterator[PortalLimit]:
    """Another one beside it."""
    async with open_portal_limit(redis, ONE.portal) as limit:
        yield limit


async def _end(limit: PortalLimit, error: AutosError | None = None) -> type[AutosError] | None:
    """One request that ends like this; return what its caller sees."""
    slot = limit.slot()
    try:
        await slot.__aenter__()
    except PortalBreakerOpenError as refusal:
        return type(refusal)
    return await _leave(slot, error)


async def _leave(slot: Slot, error: AutosError | None = None) -> type[AutosError] | None:
    """End a request that was let in; return what its caller sees."""
    kind = None if error is None else type(error)
    try:
        await slot.__aexit__(kind, error, None)
    except PortalBreakerOpenError as seen:
        return type(seen)
    return kind


async def _let_in(limit: PortalLimit) -> Slot:
    """Ask until the breaker lets one in, which is its probe then."""
    async with asyncio.timeout(10):
        while True:
            with suppress(PortalBreakerOpenError):
                slot = limit.slot()
                await slot.__aenter__()
                return slot
            await asyncio.sleep(0.01)


async def _fail(limit: PortalLimit) -> type[AutosError] | None:
    return await _end(limit, PortalUnavailableError("502"))


async def _is_open(limit: PortalLimit) -> bool:
    return await _end(limit) is PortalBreakerOpenError


async def _pass_time(redis: Redis) -> None:
    """Let the time of the open breaker be over."""
    await cast("Awaitable[int]", redis.hset(STATE, "open_until", "1"))


async def _state(redis: Redis, name: str) -> int:
    return int(await cast("Awaitable[bytes | None]", redis.hget(STATE, name)) or 0)


async def test_failures_in_a_row_over_all_workers_open_it_for_all(redis: Redis) -> None:
    async with open_portal_limit(redis, THREE.portal) as one, open_portal_limit(redis, THREE.portal) as two:
        assert await _fail(one) is PortalUnavailableError
        assert await _fail(two) is PortalUnavailableError
        assert await _fail(one) is PortalBreakerOpenError  # what opens it costs its caller nothing
        assert await _is_open(one)
        assert await _is_open(two)


async def test_a_success_in_between_starts_the_count_anew(redis: Redis) -> None:
    async with open_portal_limit(redis, THREE.portal) as one, open_portal_limit(redis, THREE.portal) as two:
        for _ in range(3):
            assert await _fail(one) is PortalUnavailableError
            assert await _fail(one) is PortalUnavailableError
            assert await _end(two) is None


@pytest.mark.parametrize("error", NEITHER, ids=lambda error: type(error).__name__)
async def test_what_is_no_failure_of_the_portal_neither_counts_nor_starts_the_count_anew(
    redis: Redis, error: AutosError
) -> None:
    async with open_portal_limit(redis, THREE.portal) as limit:
        for _ in range(2):
            await _fail(limit)
        for _ in range(3):
            assert await _end(limit, error) is type(error)
        assert await _fail(limit) is PortalBreakerOpenError


async def test_a_503_counts_too(one: PortalLimit) -> None:
    assert await _end(one, PortalOverloadedError("503")) is PortalBreakerOpenError
    assert await _is_open(one)


async def test_a_caller_learns_why_and_when_to_come_back(redis: Redis, one: PortalLimit) -> None:
    await _fail(one)
    waits_s = set()
    for _ in range(5):
        with pytest.raises(PortalBreakerOpenError) as caught:
            async with one.slot():
                pass
        assert caught.value.code == "portal_unavailable"
        assert caught.value.retry_after_s is not None
        waits_s.add(caught.value.retry_after_s)
    assert len(waits_s) == 5
    seconds, _ = await redis.time()
    left_s = await _state(redis, "open_until") / 1000 - seconds - 1
    assert all(left_s < wait_s < 20 for wait_s in waits_s)


async def test_who_waits_for_a_place_is_told_when_it_opens(one: PortalLimit, two: PortalLimit) -> None:
    async with asyncio.timeout(10), AsyncExitStack() as held:
        for _ in range(3):
            await held.enter_async_context(one.slot())
        last_place = two.slot()
        await last_place.__aenter__()
        waiting = [asyncio.create_task(_end(limit)) for limit in (one, two) for _ in range(3)]
        told, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not told
        assert await _leave(last_place, PortalUnavailableError("502")) is PortalBreakerOpenError
        assert await asyncio.gather(*waiting) == [PortalBreakerOpenError] * 6


async def test_when_its_time_has_passed_one_request_over_all_workers_is_let_in(
    redis: Redis, one: PortalLimit, two: PortalLimit
) -> None:
    await _fail(one)
    await _pass_time(redis)
    async with one.slot():
        assert await _is_open(one)
        assert await _is_open(two)
    assert await _end(two) is None


async def test_of_many_that_come_at_once_one_is_the_probe(
    redis: Redis, one: PortalLimit, two: PortalLimit
) -> None:
    await _fail(one)
    await _pass_time(redis)
    ends = await asyncio.gather(*(_fail(limit) for limit in (one, two) for _ in range(10)))
    assert ends == [PortalBreakerOpenError] * 20
    assert await _state(redis, "open_ms") == 30_000  # a second probe would have doubled it again


async def test_success_of_the_probe_closes_it_at_a_low_limit(redis: Redis, one: PortalLimit) -> None:
    for _ in range(4 + 5):
        await _end(one)
    assert await _state(redis, "limit") == 6
    await _fail(one)
    await _pass_time(redis)
    assert await _end(one) is None
    assert await _state(redis, "limit") == 4
    assert await _end(one) is None
    await _fail(one)
    assert await _state(redis, "open_ms") == 15_000  # and the next time begins short again


async def test_each_failed_probe_doubles_its_time_up_to_five_minutes(redis: Redis, one: PortalLimit) -> None:
    await _fail(one)
    times_s = []
    for _ in range(6):
        times_s.append(await _state(redis, "open_ms") // 1000)
        await _pass_time(redis)
        assert await _fail(one) is PortalBreakerOpenError
    assert times_s == [15, 30, 60, 120, 240, 300]
    assert await _is_open(one)


async def test_a_probe_that_vanishes_gives_its_turn_back(redis: Redis, one: PortalLimit) -> None:
    await _fail(one)
    await _pass_time(redis)
    dead = PortalLimit(redis, ONE.portal, hold_s=0.3)  # nobody renews its places
    vanished = dead.slot()
    await vanished.__aenter__()
    assert await _is_open(one)
    next_probe = await _let_in(one)
    # Should the first report after all, it changes nothing.
    await _leave(vanished, PortalUnavailableError("502"))
    assert await _state(redis, "open_ms") == 15_000
    assert await _leave(next_probe) is None
    assert await _end(one) is None


async def test_a_probe_that_takes_long_keeps_its_turn(redis: Redis) -> None:
    async with open_portal_limit(redis, ONE.portal, hold_s=0.6) as limit:
        await _fail(limit)
        await _pass_time(redis)
        async with limit.slot():
            ((holder, runs_out_ms),) = await redis.zrange(HOLDERS, 0, -1, withscores=True)
            async with asyncio.timeout(10):
                while (await redis.zscore(HOLDERS, holder) or 0) < runs_out_ms + 600:
                    assert await _is_open(limit)


async def test_a_probe_that_shows_nothing_leaves_its_turn_to_the_next(redis: Redis, one: PortalLimit) -> None:
    await _fail(one)
    await _pass_time(redis)
    assert await _end(one, ProcessNotFoundError("404")) is ProcessNotFoundError
    await _leave(await _let_in(one), PortalUnavailableError("502"))
    assert await _state(redis, "open_ms") == 30_000


async def test_requests_from_before_it_opened_neither_lengthen_nor_close_it(
    redis: Redis, one: PortalLimit, two: PortalLimit
) -> None:
    good, bad = two.slot(), two.slot()
    await good.__aenter__()
    await bad.__aenter__()
    await _fail(one)
    assert await _leave(good) is None
    assert await _is_open(one)
    assert await _leave(bad, PortalUnavailableError("502")) is PortalBreakerOpenError
    assert await _state(redis, "open_ms") == 15_000


async def test_without_redis_each_process_has_a_breaker_of_its_own() -> None:
    settings = THREE.model_copy(update={"portal_breaker_open_s": 0.2})
    async with (
        Redis.from_url("redis://127.0.0.1:1") as away,
        open_portal_limit(away, settings.portal) as one,
        open_portal_limit(away, settings.portal) as two,
    ):
        ends = [await _fail(one) for _ in range(3)]
        assert ends == [PortalUnavailableError, PortalUnavailableError, PortalBreakerOpenError]
        assert await _is_open(one)
        assert await _end(two) is None
        assert await _leave(await _let_in(one)) is None
        assert await _end(one) is None


# Without Redis, the rules one by one --------------------------------------------------------------


class Clock:
    """Seconds that pass only when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _is_shut(own: OwnPlaces, holder: str) -> bool:
    return own.acquire(holder).shut_ms > 0


def test_our_own_breaker_opens_after_failures_in_a_row_and_a_success_starts_anew() -> None:
    own = OwnPlaces(THREE.portal, clock=Clock())
    assert [own.failed("a"), own.failed("b")] == [(0, False)] * 2
    own.succeeded("c")
    assert [own.failed("a"), own.failed("b")] == [(0, False)] * 2
    assert own.failed("c") == (15_000, True)
    assert own.failed("d") == (15_000, False)
    assert _is_shut(own, "e")


def test_our_own_breaker_lets_one_probe_in_whose_success_closes_it() -> None:
    clock = Clock()
    own = OwnPlaces(ONE.portal, clock=clock)
    own.failed("a")
    clock.now += 15
    assert not _is_shut(own, "probe")
    assert _is_shut(own, "other")
    assert own.succeeded("late") is False
    assert _is_shut(own, "other")
    assert own.succeeded("probe") is True
    assert not _is_shut(own, "other")


def test_our_own_breaker_gives_the_turn_of_a_probe_that_showed_nothing_to_the_next() -> None:
    clock = Clock()
    own = OwnPlaces(ONE.portal, clock=clock)
    own.failed("a")
    clock.now += 15
    own.acquire("probe")
    assert own.release("probe")
    assert not _is_shut(own, "next")
    assert own.failed("probe") == (15_000, False)
    assert own.failed("next") == (30_000, True)


def test_our_own_breaker_doubles_its_time_up_to_five_minutes() -> None:
    clock = Clock()
    own = OwnPlaces(ONE.portal, clock=clock)
    times_ms = [own.failed("a")[0]]
    for _ in range(6):
        clock.now += times_ms[-1] / 1000
        assert own.acquire("probe").wait_ms == 0
        times_ms.append(own.failed("probe")[0])
        own.release("probe")
    assert times_ms == [15_000, 30_000, 60_000, 120_000, 240_000, 300_000, 300_000]
