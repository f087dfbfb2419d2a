-- Says how many entries there are.
--
-- KEYS[1]  the shard
-- ARGV     names of its state
-- Returns  {pending, in flight, due, since when the first one waits or '', now, {value, ...}}

local shard, due = KEYS[1], KEYS[1] .. ':due'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local claimed, first = redis.call('LINDEX', shard .. ':flight', 0), redis.call('ZRANGE', due, 0, 0)[1]
local entry = shard .. (claimed and ':f:' .. claimed or ':e:' .. (first or ''))
local since = redis.pcall('HGET', entry, '#')
return {
  redis.call('ZCARD', due), redis.call('LLEN', shard .. ':flight'),
  redis.call('ZCOUNT', due, '-inf', now), type(since) == 'string' and since or '', now,
  redis.call('HMGET', shard, 'paused', unpack(ARGV)),
}
