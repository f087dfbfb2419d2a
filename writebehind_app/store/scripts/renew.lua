-- Lengthens the lease of the batch in flight, whose transaction takes its time.
--
-- KEYS[1]  the shard
-- ARGV     token, lease µs
-- Returns  1, or 0 where another batch, or none, is in flight by now

local shard = KEYS[1]
if redis.call('HGET', shard, 'token') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', shard, 'lease', time[1] * 1000000 + time[2] + tonumber(ARGV[2]))
return 1
