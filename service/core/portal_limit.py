"""Requests in flight to the portal, limited over all workers by a count kept in Redis."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from redis.asyncio import Redis

from service.core.queue import REDIS_ERRORS
from service.core.settings import Settings

HOLDERS = "autos:portal:holders"
STATE = "autos:portal:state"
_HOLD_S = 30
_RENEW_S = 10.0
_LONGEST_PAUSE_S = 3600.0
_SHORT_PAUSE_S = 1.0

# KEYS holders, state; ARGV id, hold seconds, start, cap. Returns 0, or the ms to wait before asking again.
_ACQUIRE = """
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local paused = tonumber(redis.call('HGET', KEYS[2], 'paused_until') or '0')
if paused > now then return math.min(paused - now, 1000) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local limit = math.min(tonumber(redis.call('HGET', KEYS[2], 'limit') or ARGV[3]), tonumber(ARGV[4]))
if redis.call('ZCARD', KEYS[1]) >= limit then return -1 end
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
return 0
"""
# ARGV start, cap, pause in ms. Halves at most once a second, over all workers.
_THROTTLE = """
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local paused = tonumber(redis.call('HGET', KEYS[1], 'paused_until') or '0')
redis.call('HSET', KEYS[1], 'paused_until', math.max(paused, now + ARGV[3]))
if now - tonumber(redis.call('HGET', KEYS[1], 'cut_at') or '0') < 1000 then return 0 end
local limit = math.min(tonumber(redis.call('HGET', KEYS[1], 'limit') or ARGV[1]), tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'limit', math.max(1, math.floor(limit / 2)), 'cut_at', now)
return 1
"""
# ARGV start, cap. Returns the new limit: one more.
_RISE = """
local limit = math.min(tonumber(redis.call('HGET', KEYS[1], 'limit') or ARGV[1]) + 1, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'limit', limit)
return limit
"""

log = logging.getLogger(__name__)


class PortalLimit:
    """The places at the portal, as this process sees them.

    While Redis is away a small number of places in this process stands in.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._start = settings.portal_concurrency_start
        self._cap = settings.portal_concurrency
        self._acquire = redis.register_script(_ACQUIRE)
        self._throttle = redis.register_script(_THROTTLE)
        self._rise = redis.register_script(_RISE)
        self._queue = asyncio.Lock()
        self._freed = asyncio.Event()
        self._fallback = asyncio.Semaphore(min(self._start, self._cap))
        self._held: set[str] = set()
        self._successes = 0
        self._limit = float(self._start)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place; waits for it in the order of asking."""
        holder = uuid4().hex
        try:
            is_shared = await self._take(holder)
            if is_shared:
                yield
            else:
                async with self._fallback:
                    yield
        finally:
            await self._release(holder)

    async def throttled(self, retry_after_s: float | None) -> None:
        """Halve the limit (once a second at most) and let all workers pause, an hour at the longest."""
        pause_s = _SHORT_PAUSE_S if retry_after_s is None else min(retry_after_s, _LONGEST_PAUSE_S)
        try:
            await self._throttle(keys=[STATE], args=[self._start, self._cap, int(pause_s * 1000)])
        except REDIS_ERRORS as error:
            log.warning("the limit was not lowered: %s", type(error).__name__)
            await asyncio.sleep(min(pause_s, _RENEW_S))

    async def succeeded(self) -> None:
        """Count a success; after as many as the limit is high, it rises by one."""
        self._successes += 1
        if self._successes < self._limit:
            return
        self._successes = 0
        with suppress(*REDIS_ERRORS):
            self._limit = float(await self._rise(keys=[STATE], args=[self._start, self._cap]))

    async def keep(self) -> None:
        """Renew the places held here until cancelled; those of a dead process run out by themselves."""
        while True:
            await asyncio.sleep(_RENEW_S)
            if not self._held:
                continue
            try:
                seconds, microseconds = await self._redis.time()
                until = seconds * 1000 + microseconds // 1000 + _HOLD_S * 1000
                await self._redis.zadd(HOLDERS, dict.fromkeys(self._held, until), xx=True)
            except REDIS_ERRORS as error:
                log.warning("places at the portal were not renewed: %s", type(error).__name__)

    async def _take(self, holder: str) -> bool:
        """Wait for a shared place; False when Redis is away."""
        async with self._queue:  # only the first in this process's line asks
            self._held.add(holder)
            while True:
                self._freed.clear()
                try:
                    wait_ms = await self._acquire(
                        keys=[HOLDERS, STATE], args=[holder, _HOLD_S, self._start, self._cap]
                    )
                except REDIS_ERRORS as error:
                    log.warning("no shared limit: %s", type(error).__name__)
                    return False
                if wait_ms == 0:
                    return True
                await self._wait(wait_ms)

    async def _wait(self, wait_ms: int) -> None:
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.02, 0.05)):  # noqa: S311  # jitter, not a secret
                await self._freed.wait()

    async def _release(self, holder: str) -> None:
        self._held.discard(holder)
        with suppress(*REDIS_ERRORS):
            await asyncio.shield(self._redis.zrem(HOLDERS, holder))
        self._freed.set()


@asynccontextmanager
async def open_portal_limit(redis: Redis, settings: Settings) -> AsyncIterator[PortalLimit]:
    """Open the shared limit and keep this process's places while it is open."""
    limit = PortalLimit(redis, settings)
    keeper = asyncio.create_task(limit.keep())
    try:
        yield limit
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
