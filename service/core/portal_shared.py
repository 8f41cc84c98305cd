"""What all workers know of the portal: places, limit, pause and breaker, kept in Redis.

Each rule is one Lua script, so that it holds over all workers; its clock is Redis' own. The holders of places
stand in a sorted set with the instant at which each place runs out, everything else in one hash.
"""

from collections.abc import Awaitable, Collection
from typing import Any, NamedTuple

from redis.asyncio import Redis

from service.core.settings import Settings

HOLDERS = "autos:portal:holders"
STATE = "autos:portal:state"

FULL = -1
LONGEST_OPEN_S = 300.0

# ARGV of every script: start and cap of the limit; failures in a row that open the breaker; ms for which it
# is open at first and at most. A state that nobody has touched for two hours is forgotten: no throttling is
# for ever.
_PRELUDE = """
local start, cap, failures = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local shortest_ms, longest_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function number(name)
  return tonumber(redis.call('HGET', KEYS[2], name) or '0')
end
local function keep(...)
  redis.call('HSET', KEYS[2], ...)
  redis.call('PEXPIRE', KEYS[2], 7200000)
end
local function limit()
  return math.min(tonumber(redis.call('HGET', KEYS[2], 'limit') or start), cap)
end
local function is_probe(id)
  return redis.call('HGET', KEYS[2], 'probe') == id
end
-- The ms for which the breaker lets nobody in. A probe has its turn as long as its place, so that the turn of
-- one that died comes back by itself.
local function shut_ms()
  local open_until = number('open_until')
  if open_until == 0 or open_until > now then return math.max(open_until - now, 0) end
  local probe = redis.call('HGET', KEYS[2], 'probe')
  local turn_ends = probe and tonumber(redis.call('ZSCORE', KEYS[1], probe) or '0') or 0
  return math.max(math.min(turn_ends - now, shortest_ms), 0)
end
"""
# ARGV id, ms to hold. Returns the members of a Turn.
_ACQUIRE = """
local shut, pause = shut_ms(), number('paused_until') - now
if shut > 0 then return {0, shut, limit()} end
if pause > 0 then return {pause, 0, limit()} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= limit() then return {-1, 0, limit()} end
redis.call('ZADD', KEYS[1], now + ARGV[7], ARGV[6])
if number('open_until') > 0 then keep('probe', ARGV[6]) end
return {0, 0, limit()}
"""
# ARGV ms to hold, ids. A place that is gone stays gone: it may have been released meanwhile.
_RENEW = """
for place = 7, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[6], ARGV[place]) end
"""
# ARGV ms of pause. Returns the limit: halved, but only once a second over all workers.
_SLOW_DOWN = """
keep('paused_until', math.max(number('paused_until'), now + ARGV[6]))
if now - number('cut_at') >= 1000 then
  keep('limit', math.max(1, math.floor(limit() / 2)), 'cut_at', now)
end
return limit()
"""
# ARGV id, 1 to let the limit rise or 0. Returns the limit, and 1 when this closed the breaker.
_SUCCEEDED = """
redis.call('HDEL', KEYS[2], 'failures')
if number('open_until') > 0 then
  if not is_probe(ARGV[6]) then return {limit(), 0} end
  redis.call('HDEL', KEYS[2], 'open_until', 'open_ms', 'probe')
  keep('limit', math.min(limit(), start))
  return {limit(), 1}
end
if ARGV[7] == '1' then keep('limit', math.min(limit() + 1, cap)) end
return {limit(), 0}
"""
# ARGV id. Returns the ms for which the breaker lets nobody in, and 1 when this opened it.
_FAILED = """
local open_ms = shortest_ms
if number('open_until') > 0 then
  if number('open_until') > now or not is_probe(ARGV[6]) then return {shut_ms(), 0} end
  open_ms = math.min(2 * number('open_ms'), longest_ms)
else
  keep('failures', number('failures') + 1)
  if number('failures') < failures then return {0, 0} end
end
keep('open_until', now + open_ms, 'open_ms', open_ms)
redis.call('HDEL', KEYS[2], 'failures', 'probe')
return {open_ms, 1}
"""


class Turn(NamedTuple):
    """The answer to a request for a place.

    Attributes:
        wait_ms: 0 when the place is given, `FULL` when all are taken, else how long everybody pauses.
        shut_ms: how long the breaker lets nobody in; above 0 no place is given.
        limit: the limit now.
    """

    wait_ms: int
    shut_ms: int
    limit: int


class SharedPlaces:
    """The scripts with the settings they need; every call raises what Redis raises."""

    def __init__(self, redis: Redis, settings: Settings, *, hold_s: float) -> None:
        self._redis = redis
        self._scripts = {
            script: redis.register_script(_PRELUDE + script)
            for script in (_ACQUIRE, _RENEW, _SLOW_DOWN, _SUCCEEDED, _FAILED)
        }
        self._hold_ms = ms(hold_s)
        self._rules = [
            settings.portal_concurrency_start,
            settings.portal_concurrency,
            settings.portal_breaker_failures,
            ms(settings.portal_breaker_open_s),
            ms(LONGEST_OPEN_S),
        ]

    async def acquire(self, holder: str) -> Turn:
        """Ask for a place, once. When the breaker's time has passed, who gets one is its probe."""
        return Turn(*await self._run(_ACQUIRE, holder, self._hold_ms))

    async def renew(self, holders: Collection[str]) -> None:
        """Let these places last from now."""
        await self._run(_RENEW, self._hold_ms, *holders)

    async def release(self, holders: Collection[str]) -> int:
        """Give places back; how many of them were still held."""
        return int(await self._redis.zrem(HOLDERS, *holders))

    async def slow_down(self, pause_s: float) -> int:
        """Halve the limit, once a second at most, and pause; return the limit."""
        return int(await self._run(_SLOW_DOWN, ms(pause_s)))

    async def succeeded(self, holder: str, *, is_rise: bool) -> tuple[int, bool]:
        """Note a success; return the limit, and whether this closed the breaker."""
        limit, is_closed = await self._run(_SUCCEEDED, holder, int(is_rise))
        return limit, bool(is_closed)

    async def failed(self, holder: str) -> tuple[int, bool]:
        """Note a failure; return for how many ms the breaker is shut, and whether this opened it."""
        shut_ms, is_opened = await self._run(_FAILED, holder)
        return shut_ms, bool(is_opened)

    def _run(self, script: str, *args: str | int) -> Awaitable[Any]:
        return self._scripts[script](keys=[HOLDERS, STATE], args=[*self._rules, *args])


def ms(seconds: float) -> int:
    """Return whole milliseconds."""
    return int(seconds * 1000)
