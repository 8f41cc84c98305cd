"""Requests in flight to one source of documents, limited over all workers by what they share in Redis.

A worker renews the places it holds; those of a dead one come back by themselves. The limit rises by one after
as many successes as it is high and is halved when the portal asks for patience (429, 503). When the portal
fails many times in a row, a breaker opens and nobody asks it for a while. While Redis is away or silent, a
small number of places in each process stands in, with a breaker of its own.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from itertools import chain, repeat
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

from redis.asyncio import Redis

from service.core import metrics
from service.core.errors import (
    BadContentError,
    PortalBreakerOpenError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnavailableError,
)
from service.core.portal_own import OwnPlaces
from service.core.portal_shared import Operation, Shared, SharedPlaces, Turn, ms
from service.core.queue import REDIS, REDIS_ERRORS
from service.core.settings import SourceSettings

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


class _Told(NamedTuple):
    """An operation for Redis, and where its answer goes; None when Redis is away."""

    operation: Operation
    answer: "asyncio.Future[list[int] | None]"


class PortalLimit:
    """The places at the portal, as this process sees them.

    One call to Redis is under way at a time: it carries what came up during the one before, so that hundreds
    of requests a second cost no more calls than there is time for.
    """

    def __init__(self, redis: Redis, source: SourceSettings, *, hold_s: float = _HOLD_S) -> None:
        self._redis = redis
        self._source = source
        self._shared = SharedPlaces(redis, source, hold_s=hold_s)
        self._own = OwnPlaces(source)
        self._hold_s = hold_s
        self._limit = min(source.concurrency_start, source.concurrency)
        self._successes = 0
        self._line: deque[asyncio.Future[str]] = deque()
        self._to_tell: list[_Told] = []
        self._held: set[str] = set()
        self._returned: set[str] = set()
        self._stirred = asyncio.Event()
        self._is_serving = False
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
            await self._end_well(holder)
        finally:
            self._give_back(holder)

    async def look(self) -> Shared | None:
        """Return what all workers share now; None when Redis does not say."""
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                return await self._shared.look()
        except REDIS_ERRORS:
            return None

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
        metrics.PORTAL_THROTTLES.inc()
        pause_s = min(max(asked_s, 0.0), _LONGEST_PAUSE_S)
        self._successes = 0
        self._own.pause(pause_s)
        if answer := await self._tell("slow_down", ms(pause_s)):
            (self._limit,) = answer

    async def _note_failure(self, holder: str) -> int:
        answer = await self._tell("failed", holder)
        shut_ms, is_opened = answer or self._own.failed(holder)
        if is_opened:
            metrics.PORTAL_BREAKER_OPENINGS.inc()
            log.warning(
                "the %s keeps failing and is left alone for %.0f s", self._source.title, shut_ms / 1000
            )
        return int(shut_ms)

    async def _end_well(self, holder: str) -> None:
        """Tell of a success and give the place back, both in one call to Redis."""
        self._successes += 1
        is_rise = self._successes >= self._limit
        if is_rise:
            self._successes = 0
        told = self._tell("rose" if is_rise else "succeeded", holder)
        self._give_back(holder)
        answer = await told
        self._limit, is_closed = answer or (self._limit, self._own.succeeded(holder))
        if is_closed:
            log.info("the %s answers again", self._source.title)

    # Taking a place and giving it back ------------------------------------------------------------

    async def _take(self) -> str:
        """Wait for a place and return its holder's id."""
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        if len(self._line) == 1:
            self._stir()
        since = perf_counter()
        try:
            holder: str = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give_back(place.result())  # it came in the moment in which nobody wanted it any more
            raise
        metrics.PORTAL_PLACE_SECONDS.observe(perf_counter() - since)
        return holder

    def _give_back(self, holder: str) -> None:
        """Let others have a place; nothing when that was done before."""
        if not self._own.release(holder):
            if holder not in self._held:
                return
            self._held.remove(holder)
            self._returned.add(holder)
        self._stir()

    def _tell(self, what: str, about: str | int) -> "asyncio.Future[list[int] | None]":
        """Let the next call to Redis carry an operation; its answer is None when Redis is away."""
        answer: asyncio.Future[list[int] | None] = asyncio.get_running_loop().create_future()
        if self._is_away:
            answer.set_result(None)
        else:
            self._to_tell.append(_Told((what, about), answer))
            self._stir()
        return answer

    # The conversation with Redis ------------------------------------------------------------------

    def _stir(self) -> None:
        """Have it seen that there is something to ask or to tell."""
        self._stirred.set()
        if not self._is_serving:
            self._is_serving = True
            self._start(self._serve())

    async def _serve(self) -> None:
        """Call Redis, or serve the line without it, as long as there is a reason to."""
        try:
            while self._has_reason():
                self._stirred.clear()
                turn = self._serve_alone() if self._is_away else await self._exchange()
                if turn.shut_ms > 0:
                    self._refuse_the_line(turn.shut_ms)
                elif turn.wait_ms and self._has_reason():
                    await self._wait(turn.wait_ms)
        finally:
            # In the same step as the last look: who comes from here on starts another one.
            self._is_serving = False

    def _has_reason(self) -> bool:
        return bool(self._has_first() or self._to_tell or (self._returned and not self._is_away))

    async def _exchange(self) -> Turn:
        """Tell and ask once; the answer is that to the first in the line who got no place."""
        told, self._to_tell = self._to_tell, []
        returned = list(self._returned)
        # All that this process could still have, if no other has any.
        room = max(1, self._limit - len(self._held))
        asked = [uuid4().hex for _ in range(min(room, len(self._line)))]
        operations = [one.operation for one in told]
        operations += [("free", holder) for holder in returned]
        operations += [("take", holder) for holder in asked]
        try:
            answers: list[list[int]] | None = await self._ask(self._shared.exchange(operations))
        except asyncio.CancelledError:
            for one in told:
                one.answer.cancel()
            raise
        if answers is None:
            # Redis may have given the places and lost its answer.
            self._returned.update(asked)
        else:
            self._returned.difference_update(returned)
        _answer(told, answers or [])
        turns = [] if answers is None else answers[len(told) + len(returned) :]
        return self._give_out(asked, [Turn(*turn) for turn in turns])

    def _give_out(self, holders: list[str], turns: list[Turn]) -> Turn:
        """Hand over the places that were given; return the answer to the first who got none."""
        given = Turn(0, 0, self._limit)
        for holder, turn in zip(holders, turns, strict=False):
            self._limit = turn.limit
            if turn.wait_ms or turn.shut_ms:
                return turn
            self._held.add(holder)
            self._hand_over(holder)
        return given

    def _hand_over(self, holder: str) -> None:
        if self._has_first():
            self._line.popleft().set_result(holder)
        else:
            self._give_back(holder)

    def _serve_alone(self) -> Turn:
        """Give out places of our own; the answer is that to the first in the line who got none."""
        _answer(self._to_tell, [])
        self._to_tell = []
        turn = Turn(0, 0, self._limit)
        while self._has_first():
            holder = uuid4().hex
            turn = self._own.acquire(holder)
            if turn.wait_ms or turn.shut_ms:
                break
            self._line.popleft().set_result(holder)
        return turn

    def _has_first(self) -> bool:
        """Whether somebody waits in the line; those who left it are passed over."""
        while self._line and self._line[0].done():
            self._line.popleft()
        return bool(self._line)

    def _refuse_the_line(self, shut_ms: int) -> None:
        while self._has_first():
            self._line.popleft().set_exception(_breaker_open(shut_ms))

    async def _wait(self, wait_ms: int) -> None:
        """Look again after a moment, or at once when there is news in this process."""
        jitter_s = random.uniform(*_POLL_S)  # noqa: S311  # no secret
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(wait_ms, 0) / 1000, _LONGEST_LOOK_AWAY_S) + jitter_s):
                await self._stirred.wait()

    async def _ask(self, call: Awaitable[Any]) -> Any:
        """Await one call to Redis; None when it failed, and from then on Redis counts as away."""
        try:
            with REDIS.of("portal_limit"):
                async with asyncio.timeout(_REDIS_TIMEOUT_S):
                    return await call
        except REDIS_ERRORS as error:
            if not self._is_away:
                self._is_away = True
                log.warning(
                    "the %s's limit is not shared: Redis is away (%s)",
                    self._source.title,
                    type(error).__name__,
                )
                self._start(self._watch_for_redis())
            return None

    async def _watch_for_redis(self) -> None:
        """Write something now and then (a full Redis answers, but is of no use) until it is taken."""
        while not await self._is_closing_after(_SIGN_EVERY_S):
            if await self._ask(self._redis.set(f"autos:{self._source.name}:sign", 1, px=1000)) is not None:
                self._is_away = False
                self._own = OwnPlaces(self._source)
                log.info("the %s's limit is shared again", self._source.title)
                self._stir()
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
                    await self._shared.exchange([("renew", holder) for holder in self._held])
            except REDIS_ERRORS as error:
                log.warning("places at the %s were not renewed: %s", self._source.title, type(error).__name__)

    async def _is_closing_after(self, timeout_s: float) -> bool:
        # An event, because redis-py can swallow a cancel that meets one of its own time-outs.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._closing.wait()
        return self._closing.is_set()

    def _start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something beside the callers; it is kept from the garbage collector until it is done."""
        # It serves whoever comes: it is part of nobody's trace, and what it logs is about nobody.
        task = asyncio.create_task(work, context=Context())
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
    redis: Redis, source: SourceSettings, *, hold_s: float = _HOLD_S
) -> AsyncIterator[PortalLimit]:
    """Open the shared limit and keep this process's places while it is open.

    Args:
        redis: may be away, now or later.
        hold_s: how long the places of a worker that died stay taken.
    """
    limit = PortalLimit(redis, source, hold_s=hold_s)
    limit.start_renewing()
    try:
        yield limit
    finally:
        await limit.close()


def _answer(told: Iterable[_Told], answers: Iterable[list[int]]) -> None:
    """Pass the answers on; None where there are none."""
    for one, answer in zip(told, chain(answers, repeat(None)), strict=False):
        if not one.answer.done():
            one.answer.set_result(answer)


def _breaker_open(shut_ms: int) -> PortalBreakerOpenError:
    # Spread out, so that jobs do not come back in one instant.
    left_s = shut_ms / 1000
    wait_s = left_s + random.uniform(0, 0.5 + 0.2 * left_s)  # noqa: S311  # no secret
    return PortalBreakerOpenError("the portal kept failing and is left alone for now", retry_after_s=wait_s)
