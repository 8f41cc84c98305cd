"""Requests in flight to the portal, limited over all workers by a count kept in Redis.

The holders of places stand in a sorted set with the instant at which each place runs out, by Redis' own
clock: a worker renews its places, those of a dead one come back by themselves. The limit rises by one after
as many successes as it is high and is halved when the portal throttles. While Redis is away or silent, a
small number of places in each process stands in.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from service.core.queue import REDIS_ERRORS
from service.core.settings import Settings

HOLDERS = "autos:portal:holders"
STATE = "autos:portal:state"
_PROBE = "autos:portal:probe"

_HOLD_S = 30.0
_LONGEST_PAUSE_S = 3600.0
_SHORT_PAUSE_S = 1.0
# How long Redis may take for one call, and how long after a failure it is asked again.
_REDIS_TIMEOUT_S = 1.5
_PROBE_EVERY_S = 0.5
_CLOSING_S = 2.0
# A pause is looked at again this often, because it may have been lifted.
_LONGEST_LOOK_AWAY_S = 1.0
_POLL_S = (0.02, 0.05)
_FULL = -1

# A limit that nobody has touched for two hours is forgotten: no throttling is for ever.
_PRELUDE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function limit(start, cap)
  return math.min(tonumber(redis.call('HGET', KEYS[2], 'limit') or start), tonumber(cap))
end
local function keep(...)
  redis.call('HSET', KEYS[2], ...)
  redis.call('PEXPIRE', KEYS[2], 7200000)
end
"""
# ARGV id, ms to hold, start, cap. Returns 0 for a place, -1 for none, or the ms of pause left; and the limit.
_ACQUIRE = """
local most = limit(ARGV[3], ARGV[4])
local paused = tonumber(redis.call('HGET', KEYS[2], 'paused_until') or '0')
if paused > now then return {paused - now, most} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= most then return {-1, most} end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {0, most}
"""
# ARGV ms to hold, ids. A place that is gone stays gone: it may have been released meanwhile.
_RENEW = """
for place = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[place]) end
"""
# ARGV ms of pause, start, cap. Returns the limit: halved, but only once a second over all workers.
_THROTTLE = """
local most = limit(ARGV[2], ARGV[3])
local paused = tonumber(redis.call('HGET', KEYS[2], 'paused_until') or '0')
keep('paused_until', math.max(paused, now + ARGV[1]))
if now - tonumber(redis.call('HGET', KEYS[2], 'cut_at') or '0') < 1000 then return most end
most = math.max(1, math.floor(most / 2))
keep('limit', most, 'cut_at', now)
return most
"""
# ARGV start, cap. Returns the limit: one more.
_RISE = """
local most = math.min(limit(ARGV[1], ARGV[2]) + 1, tonumber(ARGV[2]))
keep('limit', most)
return most
"""

log = logging.getLogger(__name__)


class PortalLimit:
    """The places at the portal, as this process sees them."""

    def __init__(self, redis: Redis, settings: Settings, *, hold_s: float = _HOLD_S) -> None:
        self._redis = redis
        self._acquire, self._renew, self._throttle, self._rise = (
            redis.register_script(_PRELUDE + script) for script in (_ACQUIRE, _RENEW, _THROTTLE, _RISE)
        )
        self._bounds = [settings.portal_concurrency_start, settings.portal_concurrency]
        self._hold_s = hold_s
        self._limit = min(self._bounds)
        self._successes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._held: set[str] = set()
        self._returned: set[str] = set()
        self._closing = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()
        # What stands in while Redis is away.
        self._is_away = False
        self._own_places = asyncio.Semaphore(min(self._bounds))
        self._own_pause_until = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place; waits for it in the order of asking."""
        holder = await self._take()
        if holder is None:
            async with self._own_places:
                await self._own_pause()
                yield
            return
        try:
            yield
        finally:
            self._give_back(holder)

    async def throttled(self, retry_after_s: float | None) -> None:
        """Halve the limit (once a second at most) and let all workers pause, an hour at the longest.

        Args:
            retry_after_s: the pause that the portal asked for; a second when it named none.
        """
        asked_s = _SHORT_PAUSE_S if retry_after_s is None else retry_after_s
        pause_s = min(max(asked_s, 0.0), _LONGEST_PAUSE_S)
        self._successes = 0
        self._own_pause_until = max(self._own_pause_until, asyncio.get_running_loop().time() + pause_s)
        if self._is_away:
            return
        limit = await self._ask(self._throttle(keys=[HOLDERS, STATE], args=[_ms(pause_s), *self._bounds]))
        self._limit = limit or self._limit

    async def succeeded(self) -> None:
        """Count a success; after as many as the limit is high, it rises by one."""
        self._successes += 1
        if self._is_away or self._successes < self._limit:
            return
        self._successes = 0
        limit = await self._ask(self._rise(keys=[HOLDERS, STATE], args=self._bounds))
        self._limit = limit or self._limit

    # Taking a place -------------------------------------------------------------------------------

    async def _take(self) -> str | None:
        """Wait for a shared place and return its holder's id; None while Redis is away."""
        async with self._turn:  # only the first in this process's line asks
            while not self._is_away:
                self._freed.clear()
                holder = uuid4().hex
                wait_ms = await self._try(holder)
                if wait_ms == 0:
                    return holder
                await self._wait(wait_ms)
        return None

    async def _try(self, holder: str) -> int:
        """Ask once. A cancel in the middle returns the place that Redis may be giving just then."""
        asking = self._start(self._try_to_the_end(holder))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda _: self._give_back(holder))
            raise

    async def _try_to_the_end(self, holder: str) -> int:
        answer = await self._ask(
            self._acquire(keys=[HOLDERS, STATE], args=[holder, _ms(self._hold_s), *self._bounds])
        )
        if answer is None:
            # Redis may have given the place and lost its answer.
            self._returned.add(holder)
            return _FULL
        wait_ms, self._limit = answer
        if wait_ms == 0:
            self._held.add(holder)
        return int(wait_ms)

    async def _wait(self, wait_ms: int) -> None:
        """Look again after a moment, or at once when a place is freed here."""
        jitter_s = random.uniform(*_POLL_S)  # noqa: S311  # no secret
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(wait_ms, 0) / 1000, _LONGEST_LOOK_AWAY_S) + jitter_s):
                await self._freed.wait()

    async def _own_pause(self) -> None:
        await asyncio.sleep(max(0.0, self._own_pause_until - asyncio.get_running_loop().time()))

    # Giving it back -------------------------------------------------------------------------------

    def _give_back(self, holder: str) -> None:
        """Hand the place to the background, so that neither a cancel nor a slow Redis is in the way."""
        self._held.discard(holder)
        is_idle = not self._returned
        self._returned.add(holder)
        if is_idle and not self._is_away:
            self._start(self._free_returned())

    async def _free_returned(self) -> None:
        while self._returned and not self._is_away:
            batch = list(self._returned)
            if await self._ask(self._redis.zrem(HOLDERS, *batch)) is not None:
                self._returned.difference_update(batch)
            self._freed.set()

    # Redis ----------------------------------------------------------------------------------------

    async def _ask(self, call: Awaitable[Any]) -> Any:
        """Await one call to Redis; None when it failed, and from then on Redis counts as away."""
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                return await call
        except REDIS_ERRORS as error:
            if not self._is_away:
                self._is_away = True
                log.warning("the portal's limit is not shared: Redis is away (%s)", type(error).__name__)
                self._start(self._watch_for_redis())
            self._freed.set()
            return None

    async def _watch_for_redis(self) -> None:
        """Write something now and then (a full Redis answers, but is of no use) until it is taken."""
        while not await self._is_closing_after(_PROBE_EVERY_S):
            if await self._ask(self._redis.set(_PROBE, 1, px=1000)) is not None:
                self._is_away = False
                log.info("the portal's limit is shared again")
                await self._free_returned()
                return

    def start_renewing(self) -> None:
        """Renew the places held here, three times in the time they last, until closed."""
        self._start(self._renew_places())

    async def _renew_places(self) -> None:
        while not await self._is_closing_after(self._hold_s / 3):
            if not self._held or self._is_away:
                continue
            try:
                async with asyncio.timeout(_REDIS_TIMEOUT_S):
                    await self._renew(keys=[HOLDERS, STATE], args=[_ms(self._hold_s), *self._held])
            except REDIS_ERRORS as error:
                log.warning("places at the portal were not renewed: %s", type(error).__name__)

    async def _is_closing_after(self, timeout_s: float) -> bool:
        # An event, because redis-py can swallow a cancel that meets one of its own time-outs.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._closing.wait()
        return self._closing.is_set()

    def _start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something beside the callers; it is kept from the garbage collector until it is done."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Let the last places go, or leave them to run out if Redis takes too long."""
        self._closing.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                while self._running and not self._is_away:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=_REDIS_TIMEOUT_S)


@asynccontextmanager
async def open_portal_limit(
    redis: Redis, settings: Settings, *, hold_s: float = _HOLD_S
) -> AsyncIterator[PortalLimit]:
    """Open the shared limit and keep this process's places while it is open.

    Args:
        redis: may be away, now or later.
        hold_s: how long the places of a worker that died stay taken.
    """
    limit = PortalLimit(redis, settings, hold_s=hold_s)
    limit.start_renewing()
    try:
        yield limit
    finally:
        await limit.close()


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
