"""What Redis does in one step for the portal's shared limit. KEYS are the holders of places and the state."""

# A limit that nobody has touched for two hours is forgotten: no throttling is for ever.
PRELUDE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function limit(start, cap)
  return math.min(tonumber(redis.call('HGET', KEYS[2], 'limit') or start), tonumber(cap))
end
local function number(name)
  return tonumber(redis.call('HGET', KEYS[2], name) or '0')
end
local function keep(...)
  redis.call('HSET', KEYS[2], ...)
  redis.call('PEXPIRE', KEYS[2], 7200000)
end
"""
# ARGV id, ms to hold, start, cap, ms for a probe. Returns 0 for a place, -1 for none, or the ms of pause
# left; the limit; the ms for which the breaker stays open, if it is; whether a success is worth telling.
ACQUIRE = """
local most = limit(ARGV[3], ARGV[4])
local open = number('open_until')
if open > 0 then
  local shut = math.max(open, number('probe_until'))
  if shut > now then return {-1, most, shut - now, 0} end
end
local paused = number('paused_until')
if paused > now then return {paused - now, most, 0, 0} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= most then return {-1, most, 0, 0} end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if open > 0 then keep('probe_until', now + ARGV[5]) end
local is_troubled = 0
if open > 0 or number('failures') > 0 then is_troubled = 1 end
return {0, most, 0, is_troubled}
"""
# ARGV ms to hold, ids. A place that is gone stays gone: it may have been released meanwhile.
RENEW = """
for place = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[place]) end
"""
# ARGV ms of pause, start, cap. Returns the limit: halved, but only once a second over all workers.
THROTTLE = """
local most = limit(ARGV[2], ARGV[3])
local paused = number('paused_until')
keep('paused_until', math.max(paused, now + ARGV[1]))
if now - number('cut_at') < 1000 then return most end
most = math.max(1, math.floor(most / 2))
keep('limit', most, 'cut_at', now)
return most
"""
# ARGV start, cap. Returns the limit: one more.
RISE = """
local most = math.min(limit(ARGV[1], ARGV[2]) + 1, tonumber(ARGV[2]))
keep('limit', most)
return most
"""
# ARGV failures in a row that open the breaker, ms to open for, the most ms. What fails while it is open began
# before that, and says nothing new.
FAIL = """
local open = number('open_until')
if open > now then return 0 end
local failures = number('failures') + 1
keep('failures', failures)
if open == 0 and failures < tonumber(ARGV[1]) then return 0 end
local ms = tonumber(ARGV[2])
if open > 0 then ms = math.min(2 * number('open_ms'), tonumber(ARGV[3])) end
keep('open_until', now + ms, 'open_ms', ms, 'probe_until', 0, 'failures', 0)
return ms
"""
# ARGV start, cap. The portal answers: the breaker closes, and if it was open the limit begins low.
ANSWER = """
if number('open_until') > 0 then keep('limit', math.min(limit(ARGV[1], ARGV[2]), tonumber(ARGV[1]))) end
keep('failures', 0, 'open_until', 0, 'probe_until', 0)
return limit(ARGV[1], ARGV[2])
"""
