-- Drops the batch in flight: the database has it.
--
-- KEYS[1]  the shard
-- ARGV     token
-- Returns  1, or 0 where another batch, or none, is in flight by now

local shard = KEYS[1]
if redis.call('HGET', shard, 'token') ~= ARGV[1] then
  return 0
end
local flight = shard .. ':flight'
local ids = redis.call('LRANGE', flight, 0, -1)
local entries = {}
for i, id in ipairs(ids) do
  entries[i] = shard .. ':f:' .. id
end
for i = 1, #entries, 1000 do -- Lua unpacks a few thousand at most
  redis.call('UNLINK', unpack(entries, i, math.min(i + 999, #entries)))
end
redis.call('DEL', flight)
redis.call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error')
redis.call('HINCRBY', shard, 'moves', 1)
redis.call('HINCRBY', shard, 'batches', 1)
redis.call('HINCRBY', shard, 'flushed', #ids)
return 1
