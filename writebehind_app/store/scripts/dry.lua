-- Has nobody read copies of rows for a time, as something is about to be written past the flushers;
-- see ack.lua. A batch that is in flight may have read what it copies before that: it leaves none.
--
-- KEYS[1]  the shard
-- ARGV     for how many ms
-- Returns  nothing

local shard = KEYS[1]
redis.call('SET', shard .. ':dry', 1, 'PX', ARGV[1])
local token = redis.call('HGET', shard, 'token')
if token then
  redis.call('HSET', shard, 'dry', token)
end
