-- Begins a change of the division that is in force, unless another one is under way.
--
-- KEYS[1]  the buffer
-- ARGV     the token of the change, the number of the division in force, how many µs a change may take
-- Returns  the number of the division to come; 0 if the change cannot begin
--
-- Each change has a number of its own: its shards are those of no other one, even if it fails.

local buffer, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', buffer, 'number', 'change', 'since')
if state[1] ~= ARGV[2]
  or state[2] and math.abs(now - (tonumber(state[3]) or 0)) <= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', buffer, 'change', ARGV[1], 'since', now)
return redis.call('HINCRBY', buffer, 'begun', 1)
