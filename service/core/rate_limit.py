"""How many requests a key may send: the generic cell rate algorithm (GCRA), by Redis' own clock.

It counts for all API processes together; requests of one moment are counted in one round trip. When Redis is
away each process counts for itself.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.core.gather import Gatherer
from service.core.queue import REDIS, REDIS_ERRORS, Queue

WINDOW_S = 60
"""A limit is a number of requests in so many seconds; all of them may come at once."""

_PREFIX = "autos:rate:"
_PATIENCE_S = 0.5
_AWAY_S = 5.0
_MOST_KEYS = 10_000

# KEYS: the times (µs) at which the keys will have their whole limits again.
# ARGV: µs of the window; for each key µs per request, and how many requests.
# Returns for each key how many are admitted, and that time from now.
_ADMIT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window, answer = tonumber(ARGV[1]), {}
for i, key in ipairs(KEYS) do
    local cost, asked, admitted = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1]), 0
    local whole_at = math.max(tonumber(redis.call('GET', key) or now), now)
    while admitted < asked and whole_at + cost - now <= window do
        whole_at, admitted = whole_at + cost, admitted + 1
    end
    if admitted > 0 then
        redis.call('SET', key, string.format('%.0f', whole_at), 'PX', math.ceil((whole_at - now) / 1000))
    end
    table.insert(answer, admitted)
    table.insert(answer, whole_at - now)
end
return answer
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one request.

    Attributes:
        limit: requests in a window.
        whole_in_s: seconds after which the whole limit is there again.
    """

    is_admitted: bool
    limit: int
    whole_in_s: float

    @property
    def remaining(self) -> int:
        """Requests that may follow at once."""
        # What is left of a microsecond must not cost a request.
        return max(0, math.floor((WINDOW_S - self.whole_in_s) * self.limit / WINDOW_S + 1e-3))

    @property
    def retry_after_s(self) -> int:
        """Seconds after which one more is admitted, 1 at least."""
        return max(1, math.ceil(self.whole_in_s + WINDOW_S / self.limit - WINDOW_S))


@dataclass(frozen=True, eq=False, slots=True)
class _Request:
    """One request; never the same as another of the same key."""

    name: str
    limit: int


class RateLimit:
    """Admits requests, each under the name of its key."""

    def __init__(self, queue: Queue) -> None:
        self._script = queue.redis.register_script(_ADMIT)
        self._gatherer = Gatherer(self._admit_many)
        self._away_until = 0.0
        self._own = OwnRateLimit()

    async def admit(self, name: str, *, limit: int) -> Verdict:
        """Count a request and say whether it is admitted; one that is not costs nothing."""
        return await self._gatherer.ask(_Request(name, limit))

    async def _admit_many(self, requests: Sequence[_Request]) -> Mapping[_Request, Verdict]:
        if time.monotonic() >= self._away_until:
            try:
                with REDIS.of("rate_limit"):
                    async with asyncio.timeout(_PATIENCE_S):
                        return await self._ask_redis(requests)
            except REDIS_ERRORS as error:
                log.warning("redis did not count a request: %s", type(error).__name__)
                self._away_until = time.monotonic() + _AWAY_S
        now = time.monotonic()
        return {one: self._own.admit(one.name, limit=one.limit, now=now) for one in requests}

    async def _ask_redis(self, requests: Sequence[_Request]) -> dict[_Request, Verdict]:
        by_key = defaultdict[tuple[str, int], list[_Request]](list)
        for one in requests:
            by_key[one.name, one.limit].append(one)
        window_us = WINDOW_S * 1_000_000
        told = [part for (_, limit), those in by_key.items() for part in (window_us / limit, len(those))]
        answer = await self._script([_PREFIX + name for name, _ in by_key], [window_us, *told])
        verdicts = {}
        pairs = zip(answer[::2], answer[1::2], strict=True)
        for ((_, limit), those), (admitted, whole_in_us) in zip(by_key.items(), pairs, strict=True):
            for place, one in enumerate(those, start=1):
                # Of those that are admitted the first had the most left.
                after = max(0, admitted - place) * WINDOW_S / limit
                verdicts[one] = Verdict(place <= admitted, limit, whole_in_us / 1_000_000 - after)
        return verdicts


class OwnRateLimit:
    """The same for one process alone."""

    def __init__(self) -> None:
        self._whole_at: dict[str, float] = {}

    def admit(self, name: str, *, limit: int, now: float) -> Verdict:
        """Count a request at a time (seconds); see `RateLimit.admit`."""
        whole_at = max(self._whole_at.pop(name, now), now)
        cost_s = WINDOW_S / limit
        # The sum of many small costs may be a hair above the window.
        is_admitted = whole_at + cost_s - now <= WINDOW_S + 1e-6
        self._whole_at[name] = whole_at + cost_s * is_admitted
        if len(self._whole_at) > _MOST_KEYS:
            del self._whole_at[next(iter(self._whole_at))]
        return Verdict(is_admitted, limit, self._whole_at.get(name, now) - now)


@asynccontextmanager
async def open_rate_limit(queue: Queue) -> AsyncIterator[RateLimit]:
    """Open the limit over an open queue's Redis."""
    yield RateLimit(queue)
