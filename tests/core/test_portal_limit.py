"""Places at the portal, shared over all workers through Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import cast

import pytest
from redis.asyncio import Redis

from service.core.portal_limit import HOLDERS, STATE, PortalLimit, open_portal_limit
from service.core.settings import Settings
from tests.conftest import MakeSettings

pytestmark = pytest.mark.integration


@pytest.fixture
async def redis(empty: None, redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(portal_concurrency=4, portal_concurrency_start=4)


async def _limit(redis: Redis) -> int:
    """The limit as all workers see it."""
    return int(await cast("Awaitable[bytes]", redis.hget(STATE, "limit")))


async def _set(redis: Redis, name: str) -> None:
    """Move an instant of the shared state to the distant past."""
    await cast("Awaitable[int]", redis.hset(STATE, name, "0"))


async def _most_at_once(limits: list[PortalLimit], count: int) -> int:
    """Let `count` requests through, spread over the limits; return how many ever ran together."""
    running = most = 0

    async def request(limit: PortalLimit) -> None:
        nonlocal running, most
        async with limit.slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    await asyncio.gather(*(request(limits[index % len(limits)]) for index in range(count)))
    return most


async def test_two_workers_together_never_pass_the_limit(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as one, open_portal_limit(redis, settings) as two:
        assert await _most_at_once([one, two], 40) == 4
    assert await redis.zcard(HOLDERS) == 0


async def test_a_place_of_a_dead_worker_comes_back(redis: Redis, settings: Settings) -> None:
    await redis.zadd(HOLDERS, {f"dead {n}": 1 for n in range(4)})
    async with open_portal_limit(redis, settings) as limit:
        assert await _most_at_once([limit], 8) == 4


async def test_throttling_halves_the_limit_for_all_and_once_only(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as one, open_portal_limit(redis, settings) as two:
        await asyncio.gather(*(limit.throttled(0.05) for limit in (one, two, one, two)))
        assert await _limit(redis) == 2
        assert await _most_at_once([one, two], 12) == 2


async def test_the_limit_never_falls_below_one(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as limit:
        for _ in range(4):
            await _set(redis, "cut_at")
            await limit.throttled(0)
        assert await _most_at_once([limit], 3) == 1


async def test_everybody_pauses_as_long_as_the_portal_asked(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as one, open_portal_limit(redis, settings) as two:
        await one.throttled(30)
        waiting = asyncio.create_task(_most_at_once([two], 1))
        while not two._held:
            await asyncio.sleep(0)
        assert not waiting.done()
        await _set(redis, "paused_until")
        async with asyncio.timeout(5):
            assert await waiting == 1


async def test_the_limit_rises_by_one_after_as_many_successes(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as limit:
        await limit.throttled(0)
        assert await _limit(redis) == 2
        for _ in range(100):
            await limit.succeeded()
        assert await _limit(redis) == 4


async def test_a_cancelled_request_gives_its_place_back(redis: Redis, settings: Settings) -> None:
    async with open_portal_limit(redis, settings) as limit, AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(limit.slot())
        waiting = [asyncio.create_task(_most_at_once([limit], 1)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await redis.zcard(HOLDERS) == 4
        await stack.aclose()
        async with asyncio.timeout(5):
            assert await _most_at_once([limit], 8) <= 4


async def test_without_redis_a_few_places_of_our_own_stand_in(settings: Settings) -> None:
    async with (
        Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1) as away,
        open_portal_limit(away, settings) as limit,
    ):
        assert await _most_at_once([limit], 12) == 4
        await limit.throttled(0)
        await limit.succeeded()
