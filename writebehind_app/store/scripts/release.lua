-- Gives the batch in flight back after the database refused it: the lease ends, and the next try
-- waits.
--
-- KEYS[1]  the shard
-- ARGV     token, µs until the next try, what went wrong
-- Returns  1, or 0 where another batch, or none, is in flight by now

local shard = KEYS[1]
if redis.call('HGET', shard, 'token') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('HDEL', shard, 'error') -- first, as in claim.lua, for a Redis that is full
redis.call('HINCRBY', shard, 'attempts', 1)
redis.call('HINCRBY', shard, 'retries', 1)
redis.call('HSET', shard, 'lease', 0, 'retry_at', now + tonumber(ARGV[2]), 'error', ARGV[3])
return 1
