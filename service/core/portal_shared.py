"""What all workers know of one source of documents: places, limit, pause and breaker, kept in Redis.

The rules are one Lua script, so that they hold over all workers; its clock is Redis' own. One call carries
whatever a process has to ask and to tell at that moment. The holders of places stand in a sorted set with the
instant at which each place runs out, everything else in one hash.
"""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from redis.asyncio import Redis

from service.core.settings import SourceName, SourceSettings

FULL = -1
LONGEST_OPEN_S = 300.0

# KEYS holders, state. ARGV: start and cap of the limit; failures in a row that open the breaker; ms for which
# it is open at first and at most; ms for which a place is held; then the name and object of each operation.
# Returns their answers. A state that nobody touches for two hours is forgotten: no throttling is for ever.
_EXCHANGE = """
local start, cap, failures = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local shortest_ms, longest_ms, hold_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
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
local operations = {}
-- The members of a Turn.
function operations.take(id)
  local shut, pause = shut_ms(), number('paused_until') - now
  if shut > 0 then return {0, shut, limit()} end
  if pause > 0 then return {pause, 0, limit()} end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if redis.call('ZCARD', KEYS[1]) >= limit() then return {-1, 0, limit()} end
  redis.call('ZADD', KEYS[1], now + hold_ms, id)
  if number('open_until') > 0 then keep('probe', id) end
  return {0, 0, limit()}
end
-- How many were held.
function operations.free(id)
  return {redis.call('ZREM', KEYS[1], id)}
end
-- A place that is gone stays gone: it may have been given back meanwhile.
function operations.renew(id)
  return {redis.call('ZADD', KEYS[1], 'XX', now + hold_ms, id)}
end
-- The limit: halved, but only once a second over all workers.
function operations.slow_down(pause_ms)
  keep('paused_until', math.max(number('paused_until'), now + pause_ms))
  if now - number('cut_at') >= 1000 then
    keep('limit', math.max(1, math.floor(limit() / 2)), 'cut_at', now)
  end
  return {limit()}
end
-- The limit, and 1 when this closed the breaker.
function operations.succeeded(id)
  redis.call('HDEL', KEYS[2], 'failures')
  if number('open_until') == 0 or not is_probe(id) then return {limit(), 0} end
  redis.call('HDEL', KEYS[2], 'open_until', 'open_ms', 'probe')
  keep('limit', math.min(limit(), start))
  return {limit(), 1}
end
-- A success that lets the limit rise.
function operations.rose(id)
  if number('open_until') == 0 then keep('limit', math.min(limit() + 1, cap)) end
  return operations.succeeded(id)
end
-- The ms for which the breaker lets nobody in, and 1 when this opened it.
function operations.failed(id)
  local open_ms = shortest_ms
  if number('open_until') > 0 then
    if number('open_until') > now or not is_probe(id) then return {shut_ms(), 0} end
    open_ms = math.min(2 * number('open_ms'), longest_ms)
  else
    keep('failures', number('failures') + 1)
    if number('failures') < failures then return {0, 0} end
  end
  keep('open_until', now + open_ms, 'open_ms', open_ms)
  redis.call('HDEL', KEYS[2], 'failures', 'probe')
  return {open_ms, 1}
end
-- The members of a Shared.
function operations.look()
  local in_flight = redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')
  return {limit(), in_flight, shut_ms(), math.max(number('paused_until') - now, 0)}
end
local answers = {}
for at = 7, #ARGV, 2 do
  answers[#answers + 1] = operations[ARGV[at]](ARGV[at + 1])
end
return answers
"""

Operation = tuple[str, str | int]
"""What is asked or told: `take`, `free`, `renew`, `succeeded`, `rose` or `failed` with the holder's id, or
`slow_down` with ms of pause. `look` is about nothing."""


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


class Shared(NamedTuple):
    """The state of all workers together.

    Attributes:
        limit: the most requests in flight now.
        shut_ms: how long the breaker lets nobody in; 0 when it is closed, or waits for a probe.
        paused_ms: how long everybody pauses at the portal's wish.
    """

    limit: int
    in_flight: int
    shut_ms: int
    paused_ms: int


class SharedPlaces:
    """The script with the settings it needs; every call raises what Redis raises."""

    def __init__(self, redis: Redis, source: SourceSettings, *, hold_s: float) -> None:
        self._script = redis.register_script(_EXCHANGE)
        self._keys = [holders_key(source.name), state_key(source.name)]
        self._rules = [
            source.concurrency_start,
            source.concurrency,
            source.breaker_failures,
            ms(source.breaker_open_s),
            ms(LONGEST_OPEN_S),
            ms(hold_s),
        ]

    async def exchange(self, operations: Iterable[Operation]) -> list[list[int]]:
        """Do these one after the other in one round trip; return the answer of each.

        `take` asks for a place, once, and is answered with the members of a `Turn`; when the breaker's time
        has passed, who gets one is its probe. `slow_down`: the limit. `succeeded` and `rose`: the limit, and
        1 if this closed the breaker. `failed`: for how many ms the breaker is shut, and 1 if this opened it.
        """
        answers: list[list[int]] = await self._script(
            keys=self._keys, args=[*self._rules, *chain.from_iterable(operations)]
        )
        return answers

    async def look(self) -> Shared:
        """Return how things are, and change nothing."""
        (answer,) = await self.exchange([("look", 0)])
        return Shared(*answer)


def holders_key(name: SourceName) -> str:
    """Return where in Redis those stand who hold a place at this source."""
    return f"autos:{name}:holders"


def state_key(name: SourceName) -> str:
    """Return where in Redis everything else about this source stands."""
    return f"autos:{name}:state"


def ms(seconds: float) -> int:
    """Return whole milliseconds."""
    return int(seconds * 1000)
