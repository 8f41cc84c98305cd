"""Places at the portal, shared over all workers through Redis."""

import asyncio
import random
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NoRedisError

from service.core.errors import (
    PortalBreakerOpenError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnavailableError,
    RefusedError,
)
from service.core.portal_limit import PortalLimit, open_portal_limit
from service.core.portal_shared import holders_key, state_key
from service.core.settings import Settings
from service.sandbox.binaries import find_redis

HOLDERS, STATE = holders_key("portal"), state_key("portal")
FOUR = Settings(portal_concurrency=4, portal_concurrency_start=4)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


@dataclass
class OwnRedis:
    """A Redis that a test may stop, freeze and start again on the same port."""

    program: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        command = [str(self.program), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen([*command, "--appendonly", "no"], stdout=subprocess.DEVNULL)

    async def answers(self) -> None:
        async with Redis(port=self.port) as client, asyncio.timeout(10):
            while True:
                with suppress(NoRedisError):
                    await client.ping()
                    return
                await asyncio.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = OwnRedis(find_redis().path, port)
    yield server
    server.stop()


async def _limit(redis: Redis) -> int:
    """The limit as all workers see it."""
    return int(await cast("Awaitable[bytes]", redis.hget(STATE, "limit")))


async def _set(redis: Redis, name: str) -> None:
    """Move an instant of the shared state to the distant past."""
    await cast("Awaitable[int]", redis.hset(STATE, name, "0"))


async def _most_at_once(limits: list[PortalLimit], count: int) -> int:
    """Let `count` requests through, spread over the limits; return how many ever ran together.

    They end in a refusal, which leaves the limit as it is.
    """
    running = most = 0

    async def request(limit: PortalLimit) -> None:
        nonlocal running, most
        with suppress(RefusedError):
            async with limit.slot():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.01)
                running -= 1
                raise RefusedError("400")

    async with asyncio.timeout(20):
        await asyncio.gather(*(request(limits[index % len(limits)]) for index in range(count)))
    return most


async def _throttled(limit: PortalLimit, retry_after_s: float | None) -> None:
    """One request that the portal answers with 429."""
    with suppress(PortalThrottledError):
        async with limit.slot():
            raise PortalThrottledError("429", retry_after_s=retry_after_s)


async def _overloaded(limit: PortalLimit, retry_after_s: float | None) -> None:
    """One request that the portal answers with 503."""
    with suppress(PortalOverloadedError):
        async with limit.slot():
            raise PortalOverloadedError("503", retry_after_s=retry_after_s)


async def _succeeded(limit: PortalLimit, times: int) -> None:
    """So many requests, one after the other, that the portal answers well."""
    for _ in range(times):
        async with limit.slot():
            pass


async def _paused_s(redis: Redis) -> float:
    """The pause that is left for all workers."""
    until_ms = int(await cast("Awaitable[bytes]", redis.hget(STATE, "paused_until")))
    seconds, microseconds = await redis.time()
    return float(until_ms / 1000 - seconds - microseconds / 1e6)


async def test_two_workers_together_never_pass_the_limit(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as one, open_portal_limit(redis, FOUR.portal) as two:
        assert await _most_at_once([one, two], 40) == 4
    assert await redis.zcard(HOLDERS) == 0


async def test_places_are_given_in_the_order_of_asking(redis: Redis) -> None:
    served: list[int] = []

    async def request(limit: PortalLimit, number: int) -> None:
        async with limit.slot():
            served.append(number)

    async with open_portal_limit(redis, FOUR.portal) as limit:
        await asyncio.gather(*(request(limit, number) for number in range(30)))
    assert served == list(range(30))


async def test_the_places_of_a_dead_worker_come_back(redis: Redis) -> None:
    dead = PortalLimit(redis, FOUR.portal, hold_s=0.2)  # nobody renews its places
    places = [dead.slot() for _ in range(4)]
    for place in places:
        await place.__aenter__()
    async with open_portal_limit(redis, FOUR.portal) as limit:
        assert await _most_at_once([limit], 8) == 4


async def test_a_place_that_is_held_long_is_renewed(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal, hold_s=0.6) as limit, limit.slot():
        ((holder, runs_out),) = await redis.zrange(HOLDERS, 0, -1, withscores=True)
        async with asyncio.timeout(5):
            while await redis.zscore(HOLDERS, holder) in (None, runs_out):
                await asyncio.sleep(0.02)


async def test_throttling_halves_the_limit_for_all_and_once_only(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as one, open_portal_limit(redis, FOUR.portal) as two:
        await asyncio.gather(*(_throttled(limit, 0.05) for limit in (one, two, one, two)))
        assert await _limit(redis) == 2
        assert await _most_at_once([one, two], 12) == 2


async def test_the_limit_never_falls_below_one(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as limit:
        for _ in range(4):
            await _set(redis, "cut_at")
            await _throttled(limit, 0)
        assert await _most_at_once([limit], 3) == 1


async def test_everybody_pauses_as_long_as_the_portal_asked(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as one, open_portal_limit(redis, FOUR.portal) as two:
        with suppress(PortalThrottledError):
            async with two.slot():  # it begins before the pause and ends after
                await _throttled(one, 30)
                raise PortalThrottledError("429")
        assert await _paused_s(redis) > 20  # a shorter pause takes nothing from a longer one
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), two.slot():
                pass
        await _set(redis, "paused_until")
        assert await _most_at_once([two], 1) == 1


async def test_no_pause_is_longer_than_an_hour(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as limit:
        await _throttled(limit, 1e9)
    assert 3000 < await _paused_s(redis) <= 3601


async def test_a_503_halves_the_limit_too_and_pauses_nobody(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as one, open_portal_limit(redis, FOUR.portal) as two:
        await _overloaded(one, None)
        assert await _paused_s(redis) <= 0
        assert await _limit(redis) == 2
        assert await _most_at_once([one, two], 12) == 2


async def test_a_503_that_says_how_long_to_wait_pauses_everybody_an_hour_at_most(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as one, open_portal_limit(redis, FOUR.portal) as two:
        await _overloaded(one, 1e9)
        assert 3000 < await _paused_s(redis) <= 3601
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), two.slot():
                pass


async def test_the_limit_rises_by_one_after_as_many_successes_as_it_is_high(redis: Redis) -> None:
    settings = Settings(portal_concurrency=7, portal_concurrency_start=4)
    async with open_portal_limit(redis, settings.portal) as limit:
        await _succeeded(limit, 4 + 5)
        assert await _limit(redis) == 6
        await _succeeded(limit, 100)
        assert await _limit(redis) == 7
        assert await _most_at_once([limit], 20) == 7


async def test_a_cancelled_wait_takes_no_place(redis: Redis) -> None:
    async with open_portal_limit(redis, FOUR.portal) as limit, AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(limit.slot())
        waiting = [asyncio.create_task(_most_at_once([limit], 1)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await redis.zcard(HOLDERS) == 4
        await stack.aclose()
        assert await _most_at_once([limit], 8) == 4


async def test_a_cancel_at_any_moment_leaks_no_place(redis: Redis) -> None:
    chance = random.Random(20)
    async with open_portal_limit(redis, FOUR.portal) as limit:
        for _ in range(60):
            requests = [asyncio.create_task(_most_at_once([limit], 1)) for _ in range(6)]
            for request in requests:
                await asyncio.sleep(chance.uniform(0, 0.002))
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        assert await _most_at_once([limit], 8) == 4
    assert await redis.zcard(HOLDERS) == 0


async def test_without_redis_a_few_places_of_our_own_stand_in() -> None:
    async with Redis.from_url("redis://127.0.0.1:1") as away, open_portal_limit(away, FOUR.portal) as limit:
        assert await _most_at_once([limit], 12) == 4
        await _throttled(limit, 0.1)
        await _succeeded(limit, 1)
        assert await _most_at_once([limit], 12) == 4


async def test_the_limit_is_shared_again_when_redis_is_back(own_redis: OwnRedis) -> None:
    own_redis.start()
    await own_redis.answers()
    settings = Settings(portal_concurrency=4, portal_concurrency_start=2)
    async with Redis(port=own_redis.port) as redis, open_portal_limit(redis, settings.portal) as limit:
        async with limit.slot():
            own_redis.stop()
        assert await _most_at_once([limit], 8) == 2
        own_redis.start()
        await own_redis.answers()
        async with asyncio.timeout(10):
            while not await _is_shared(redis, limit):
                await asyncio.sleep(0.05)
        assert await redis.zcard(HOLDERS) <= 1


async def _is_shared(redis: Redis, limit: PortalLimit) -> bool:
    async with limit.slot():
        return bool(await redis.zcard(HOLDERS))


async def test_a_silent_redis_holds_nobody_up_for_long(own_redis: OwnRedis) -> None:
    own_redis.start()
    await own_redis.answers()
    async with Redis(port=own_redis.port) as redis, open_portal_limit(redis, FOUR.portal) as limit:
        assert await _most_at_once([limit], 4) == 4
        own_redis.send(signal.SIGSTOP)
        assert await _most_at_once([limit], 200) == 4
        own_redis.send(signal.SIGCONT)
        async with asyncio.timeout(10):
            while not await _is_shared(redis, limit):
                await asyncio.sleep(0.05)


async def test_each_source_has_places_and_a_breaker_of_its_own(redis: Redis) -> None:
    both = Settings(
        portal_concurrency=1,
        portal_concurrency_start=1,
        portal_breaker_failures=1,
        data_lake_concurrency=1,
        data_lake_concurrency_start=1,
    )
    async with (
        open_portal_limit(redis, both.portal) as portal,
        open_portal_limit(redis, both.data_lake) as lake,
    ):
        # The only place of each: who asks for the second would wait for ever if they were the same.
        async with asyncio.timeout(30), portal.slot(), lake.slot():
            seen = await portal.look(), await lake.look()
            assert [look and look.in_flight for look in seen] == [1, 1]
        with pytest.raises(PortalBreakerOpenError):
            async with portal.slot():
                raise PortalUnavailableError("down")
        async with lake.slot():
            pass
        seen = await portal.look(), await lake.look()
        assert [look is not None and look.shut_ms > 0 for look in seen] == [True, False]
