"""Requests in flight to the portal, limited over all workers by a count kept in Redis.

The holders of places stand in a sorted set with the instant at which each place runs out, by Redis' own
clock: a worker renews its places, those of a dead one come back by themselves. The limit rises by one after
as many successes as it is high and is halved when the portal throttles or says that it is overloaded.

After many failures in a row a breaker opens for all: nobody asks until one probe was answered. An answer to
any request ends the row, so a case that always fails keeps nobody else waiting.

While Redis is away or silent, a small number of places and a breaker in each process stand in.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from service.core.errors import (
    BadContentError,
    PortalBlockedError,
    PortalBreakerOpenError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnavailableError,
)
from service.core.portal_scripts import ACQUIRE, ANSWER, FAIL, PRELUDE, RENEW, RISE, THROTTLE
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
# A breaker opens for twice as long each time that its probe fails, up to this.
_LONGEST_OPEN_S = 300.0
_PROBE_S = 30.0

log = logging.getLogger(__name__)


class PortalLimit:
    """The places at the portal, as this process sees them."""

    def __init__(self, redis: Redis, settings: Settings, *, hold_s: float = _HOLD_S) -> None:
        self._redis = redis
        self._acquire, self._renew, self._throttle, self._rise, self._fail, self._answer = (
            redis.register_script(PRELUDE + script)
            for script in (ACQUIRE, RENEW, THROTTLE, RISE, FAIL, ANSWER)
        )
        self._bounds = [settings.portal_concurrency_start, settings.portal_concurrency]
        self._breaker = [
            settings.portal_breaker_failures,
            _ms(settings.portal_breaker_open_s),
            _ms(_LONGEST_OPEN_S),
        ]
        self._hold_s = hold_s
        self._limit = min(self._bounds)
        self._successes = 0
        # Whether a success is worth a call to Redis, because failures are counted there.
        self._is_troubled = False
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
        self._own_breaker = _OwnBreaker(
            settings.portal_breaker_failures, settings.portal_breaker_open_s, _LONGEST_OPEN_S
        )

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place for one request; waits for it in the order of asking.

        What the block raises tells how the portal is: nobody else has to.

        Raises:
            PortalBreakerOpenError: at once and also while waiting; nobody is to ask now.
        """
        async with self._place():
            try:
                yield
            except PortalError as error:
                await self._heed(error)
                raise
            # Any other error is ours or the storage's, and says nothing of the portal.
            await self.succeeded()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        holder = await self._take()
        if holder is None:
            async with self._own_places:
                await self._own_pause()
                self._own_breaker.refuse_when_open()
                yield
            return
        try:
            yield
        finally:
            self._give_back(holder)

    async def _heed(self, error: PortalError) -> None:
        match error:
            case PortalThrottledError():
                await self.throttled(error.retry_after_s)
            case PortalOverloadedError():
                await self.throttled(error.retry_after_s or 0.0)
                await self.failed()
            case BadContentError() | PortalBlockedError():
                pass  # somebody in front of the portal answered
            case PortalUnavailableError():
                await self.failed()
            case _:
                await self.answered()

    async def failed(self) -> None:
        """Count a failure; after so many in a row over all workers, or when it was the probe, nobody asks."""
        self._is_troubled = True
        self._own_breaker.failed()
        if not self._is_away:
            open_ms = await self._ask(self._fail(keys=[HOLDERS, STATE], args=self._breaker))
            if open_ms:
                log.warning("the portal keeps failing: nobody asks it for %.0f s", open_ms / 1000)

    async def answered(self) -> None:
        """Note that the portal is there, whatever it said: the failures in a row end here."""
        self._own_breaker.answered()
        if self._is_troubled and not self._is_away:
            self._is_troubled = False
            limit = await self._ask(self._answer(keys=[HOLDERS, STATE], args=self._bounds))
            self._limit = limit or self._limit

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
        await self.answered()
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
                wait_ms, open_ms = await self._try(holder)
                if open_ms > 0:
                    raise _open_for(open_ms / 1000)
                if wait_ms == 0:
                    return holder
                await self._wait(wait_ms)
        return None

    async def _try(self, holder: str) -> tuple[int, int]:
        """Ask once; return the ms to wait and those for which the breaker is open.

        A cancel in the middle returns the place that Redis may be giving just then.
        """
        asking = self._start(self._try_to_the_end(holder))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda _: self._give_back(holder))
            raise

    async def _try_to_the_end(self, holder: str) -> tuple[int, int]:
        answer = await self._ask(
            self._acquire(
                keys=[HOLDERS, STATE], args=[holder, _ms(self._hold_s), *self._bounds, _ms(_PROBE_S)]
            )
        )
        if answer is None:
            # Redis may have given the place and lost its answer.
            self._returned.add(holder)
            return _FULL, 0
        wait_ms, self._limit, open_ms, is_troubled = answer
        if wait_ms == 0:
            self._held.add(holder)
            self._is_troubled = self._is_troubled or bool(is_troubled)
        return int(wait_ms), int(open_ms)

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


class _OwnBreaker:
    """The breaker of one process, by the rules of the shared one: it counts always and decides in need."""

    def __init__(self, most_failures: int, open_s: float, longest_open_s: float) -> None:
        self._most = most_failures
        self._first_s = open_s
        self._longest_s = longest_open_s
        self._failures = 0
        self._open_s = 0.0
        self._until = 0.0

    def refuse_when_open(self) -> None:
        """Let nobody pass while it is open, and one when its time has passed.

        Raises:
            PortalBreakerOpenError: not now.
        """
        now = asyncio.get_running_loop().time()
        if self._open_s and now < self._until:
            raise _open_for(self._until - now)
        if self._open_s:
            self._until = now + _PROBE_S

    def failed(self) -> None:
        now = asyncio.get_running_loop().time()
        self._failures += 1
        is_probe = self._open_s > 0
        if not is_probe and self._failures < self._most:
            return
        self._open_s = min(2 * self._open_s, self._longest_s) if is_probe else self._first_s
        self._until, self._failures = now + self._open_s, 0

    def answered(self) -> None:
        self._failures, self._open_s = 0, 0.0


def _open_for(left_s: float) -> PortalBreakerOpenError:
    # Not all of them are to come back in the same instant.
    jitter = random.uniform(1.0, 1.25)  # noqa: S311  # no secret
    return PortalBreakerOpenError("the portal keeps failing", retry_after_s=left_s * jitter)


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
