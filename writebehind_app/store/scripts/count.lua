-- Says how many entries there are.
--
-- KEYS[1]  the shard
-- Returns  {pending, in flight, how many of the pending ones are due}

local shard = KEYS[1]
local log, due = shard .. ':log', shard .. ':due'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local pending, in_flight, waiting = redis.call('ZCARD', due),
  redis.call('LLEN', shard .. ':flight'), redis.call('ZCOUNT', due, '-inf', now)
if redis.call('EXISTS', log) == 0 then
  return {pending, in_flight, waiting}
end

local state = redis.call('HMGET', shard, 'flying', 'to', 'no', 'max_age', 'quiet')
local length = redis.call('XLEN', log)
local flying = state[2] and math.max(0, math.min(tonumber(state[1]) or 0, length)) or 0
local unclaimed = length - flying
local oldest = redis.call('XRANGE', log, state[2] and '(' .. state[2] or '-', '+', 'COUNT', 1)[1]
-- As in claim.lua.
local no, newest, max_age, quiet = oldest and tonumber(string.match(oldest[1], '%d+')),
  tonumber(state[3]) or 0, tonumber(state[4]) or 0, tonumber(state[5]) or 0
local is_due = oldest
  and (no + max_age <= now or (quiet > 0 and newest + quiet <= now) or no > newest)
return {pending + unclaimed, in_flight + flying, waiting + (is_due and unclaimed or 0)}
