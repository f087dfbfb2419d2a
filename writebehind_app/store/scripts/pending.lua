-- Lists entries, those in flight first, then the pending ones in the order in which they are due.
--
-- KEYS[1]  the shard
-- ARGV     how many at most
-- Returns  {attempts, how many in flight, {id, {name, text, ...}}, ...}

local shard, limit = KEYS[1], tonumber(ARGV[1])
local flight = redis.call('LRANGE', shard .. ':flight', 0, limit - 1)
local reply = {tonumber(redis.call('HGET', shard, 'attempts') or 0), #flight}
for _, id in ipairs(flight) do
  reply[#reply + 1] = {id, redis.call('HGETALL', shard .. ':f:' .. id)}
end
if #flight < limit then
  for _, id in ipairs(redis.call('ZRANGE', shard .. ':due', 0, limit - #flight - 1)) do
    reply[#reply + 1] = {id, redis.call('HGETALL', shard .. ':e:' .. id)}
  end
end
return reply
