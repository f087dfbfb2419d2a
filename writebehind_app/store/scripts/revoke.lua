-- Gives the batch in flight another token, because the ledger has its own as one that nothing may
-- be applied under. Whoever claims next works on it under the new one.
--
-- KEYS[1]  the shard
-- ARGV     token, fresh token
-- Returns  1, or 0 where another batch, or none, is in flight by now

local shard = KEYS[1]
if redis.call('HGET', shard, 'token') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', shard, 'retry_at') -- first, as in claim.lua, for a Redis that is full
redis.call('HSET', shard, 'token', ARGV[2], 'lease', 0)
return 1
