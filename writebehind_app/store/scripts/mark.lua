-- Marks rows that are about to be written past Redis, as look.lua does.
--
-- KEYS[1]  the shard
-- ARGV     the token of the write, for how many ms; then ids
-- Returns  why the shard is not open, or ''

local shard, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- include marking.lua
for i = 3, #ARGV do
  mark(ARGV[i], ARGV[1], ARGV[2])
end
local open = redis.call('HGET', shard, 'open')
return open == '1' and '' or open or '?'
