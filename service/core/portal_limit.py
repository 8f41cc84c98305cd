"""Requests in flight to the portal, limited over all workers by what they share in Redis.

A worker renews the places it holds; those of a dead one come back by themselves. The limit rises by one after
as many successes as it is high and is halved when the portal asks for patience (429, 503). When the portal
fails many times in a row, a breaker opens and nobody asks it for a while. While Redis is away or silent, a
small number of places in each process stands in, with a breaker of its own.
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
    PortalBreakerOpenError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnavailableError,
)
from service.core.portal_own import OwnPlaces
from service.core.portal_shared import FULL, SharedPlaces, Turn
from service.core.queue import REDIS_ERRORS
from service.core.settings import Settings

_SIGN = "autos:portal:sign"

_HOLD_S = 30.0
_LONGEST_PAUSE_S = 3600.0
_SHORT_PAUSE_S = 1.0
# How long Redis may take for one call, and how long after a failure it is asked again.
_REDIS_TIMEOUT_S = 1.5
_SIGN_EVERY_S = 0.5
_CLOSING_S = 2.0
# A pause is looked at again this often, because it may have been lifted.
_LONGEST_LOOK_AWAY_S = 1.0
_POLL_S = (0.02, 0.05)

log = logging.getLogger(__name__)


class PortalLimit:
    """The places at the portal, as this process sees them."""

    def __init__(self, redis: Redis, settings: Settings, *, hold_s: float = _HOLD_S) -> None:
        self._redis = redis
        self._settings = settings
        self._shared = SharedPlaces(redis, settings, hold_s=hold_s)
        self._own = OwnPlaces(settings)
        self._hold_s = hold_s
        self._limit = min(settings.portal_concurrency_start, settings.portal_concurrency)
        self._successes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._held: set[str] = set()
        self._returned: set[str] = set()
        self._closing = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()
        self._is_away = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place for one request; how the block ends tells all workers how the portal is.

        Places are given in the order of asking. A block that ends well is a success. 429 and 503 halve the
        limit and let everybody pause as long as the portal asked, an hour at most; a 429 that named no time
        means a second. `PortalUnavailableError`, except for `BadContentError`, is a failure. Everything else
        (a refusal, the court's store, S3, a cancel) is neither.

        `AUTOS_PORTAL_BREAKER_FAILURES` failures in a row open the breaker: nobody is let in, and whoever
        waits is told. When its time has passed one probe is let in: its success closes the breaker, at a low
        limit, its failure opens it for twice as long. A success of any request starts the count anew, so one
        case that always fails opens nothing while others succeed; and if it is alone and does, the first
        probe of another case closes it.

        Raises:
            PortalBreakerOpenError: the breaker is open; also in place of the failure that opened it, so that
                an outage costs nobody an attempt.
        """
        holder = await self._take()
        try:
            yield
        except PortalError as error:
            if shut_ms := await self._note(holder, error):
                raise _breaker_open(shut_ms) from error
            raise
        else:
            await self._note_success(holder)
        finally:
            self._give_back(holder)

    # How requests end -----------------------------------------------------------------------------

    async def _note(self, holder: str, error: PortalError) -> int:
        """Tell what a failed request shows of the portal; return for how many ms nobody may ask it."""
        if isinstance(error, PortalThrottledError):
            await self._slow_down(_SHORT_PAUSE_S if error.retry_after_s is None else error.retry_after_s)
        if isinstance(error, PortalOverloadedError):
            await self._slow_down(error.retry_after_s or 0.0)
        if isinstance(error, PortalUnavailableError) and not isinstance(error, BadContentError):
            return await self._note_failure(holder)
        return 0

    async def _slow_down(self, asked_s: float) -> None:
        pause_s = min(max(asked_s, 0.0), _LONGEST_PAUSE_S)
        self._successes = 0
        self._own.pause(pause_s)
        if not self._is_away:
            self._limit = await self._ask(self._shared.slow_down(pause_s)) or self._limit

    async def _note_failure(self, holder: str) -> int:
        answer = None if self._is_away else await self._ask(self._shared.failed(holder))
        shut_ms, is_opened = answer or self._own.failed(holder)
        if is_opened:
            log.warning("the portal keeps failing and is left alone for %.0f s", shut_ms / 1000)
        return int(shut_ms)

    async def _note_success(self, holder: str) -> None:
        self._successes += 1
        is_rise = self._successes >= self._limit
        if is_rise:
            self._successes = 0
        answer = None if self._is_away else await self._ask(self._shared.succeeded(holder, is_rise=is_rise))
        self._limit, is_closed = answer or (self._limit, self._own.succeeded(holder))
        if is_closed:
            log.info("the portal answers again")

    # Taking a place -------------------------------------------------------------------------------

    async def _take(self) -> str:
        """Wait for a place and return its holder's id."""
        async with self._turn:  # only the first in this process's line asks
            while True:
                self._freed.clear()
                holder = uuid4().hex
                turn = await self._try(holder)
                if turn.shut_ms > 0:
                    raise _breaker_open(turn.shut_ms)
                if turn.wait_ms == 0:
                    return holder
                await self._wait(turn.wait_ms)

    async def _try(self, holder: str) -> Turn:
        """Ask once. A cancel in the middle returns the place that Redis may be giving just then."""
        if self._is_away:
            return self._own.acquire(holder)
        asking = self._start(self._try_to_the_end(holder))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda _: self._give_back(holder))
            raise

    async def _try_to_the_end(self, holder: str) -> Turn:
        turn: Turn | None = await self._ask(self._shared.acquire(holder))
        if turn is None:
            # Redis may have given the place and lost its answer.
            self._returned.add(holder)
            return Turn(FULL, 0, self._limit)
        self._limit = turn.limit
        if turn.wait_ms == turn.shut_ms == 0:
            self._held.add(holder)
        return turn

    async def _wait(self, wait_ms: int) -> None:
        """Look again after a moment, or at once when a place is freed here."""
        jitter_s = random.uniform(*_POLL_S)  # noqa: S311  # no secret
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(wait_ms, 0) / 1000, _LONGEST_LOOK_AWAY_S) + jitter_s):
                await self._freed.wait()

    # Giving it back -------------------------------------------------------------------------------

    def _give_back(self, holder: str) -> None:
        """Hand the place to the background, so that neither a cancel nor a slow Redis is in the way."""
        if self._own.release(holder):
            self._freed.set()
            return
        self._held.discard(holder)
        is_idle = not self._returned
        self._returned.add(holder)
        if is_idle and not self._is_away:
            self._start(self._free_returned())

    async def _free_returned(self) -> None:
        while self._returned and not self._is_away:
            batch = list(self._returned)
            if await self._ask(self._shared.release(batch)) is not None:
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
        while not await self._is_closing_after(_SIGN_EVERY_S):
            if await self._ask(self._redis.set(_SIGN, 1, px=1000)) is not None:
                self._is_away = False
                self._own = OwnPlaces(self._settings)
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
                    await self._shared.renew(self._held)
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


def _breaker_open(shut_ms: int) -> PortalBreakerOpenError:
    # Spread out, so that jobs do not come back in one instant.
    left_s = shut_ms / 1000
    wait_s = left_s + random.uniform(0, 0.5 + 0.2 * left_s)  # noqa: S311  # no secret
    return PortalBreakerOpenError("the portal kept failing and is left alone for now", retry_after_s=wait_s)
