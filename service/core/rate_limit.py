"""How many requests a key may send: the generic cell rate algorithm (GCRA), in one round trip to Redis.

Redis' own clock counts, for all API processes together. When Redis is away each process counts for itself.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.core.queue import REDIS_ERRORS, Queue

WINDOW_S = 60
"""A limit is a number of requests in so many seconds; all of them may come at once."""

_PREFIX = "autos:rate:"
_PATIENCE_S = 0.25
_AWAY_S = 5.0
_MOST_KEYS = 10_000

# KEYS: the time (µs) at which the key will have its whole limit again.
# ARGV: µs per request, µs of the window. Returns whether it is admitted, and that time from now.
_ADMIT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local whole_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local cost, window = tonumber(ARGV[1]), tonumber(ARGV[2])
if whole_at + cost - now > window then
    return {0, whole_at - now}
end
whole_at = whole_at + cost
redis.call('SET', KEYS[1], string.format('%.0f', whole_at), 'PX', math.ceil((whole_at - now) / 1000))
return {1, whole_at - now}
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


class RateLimit:
    """Admits requests, each under the name of its key."""

    def __init__(self, queue: Queue) -> None:
        self._admit = queue.redis.register_script(_ADMIT)
        self._away_until = 0.0
        self._own = OwnRateLimit()

    async def admit(self, name: str, *, limit: int) -> Verdict:
        """Count a request and say whether it is admitted; one that is not costs nothing."""
        if time.monotonic() >= self._away_until:
            window_us = WINDOW_S * 1_000_000
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    done, whole_in_us = await self._admit([_PREFIX + name], [window_us / limit, window_us])
                return Verdict(bool(done), limit, whole_in_us / 1_000_000)
            except REDIS_ERRORS as error:
                log.warning("redis did not count a request: %s", type(error).__name__)
                self._away_until = time.monotonic() + _AWAY_S
        return self._own.admit(name, limit=limit, now=time.monotonic())


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
