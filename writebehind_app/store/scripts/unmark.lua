-- Ends a write past Redis: drops the bases of its rows, and its marks.
--
-- KEYS[1]  the shard
-- ARGV     the token of the write; then ids
-- Returns  why the shard is not open, or ''

local shard = KEYS[1]
for i = 2, #ARGV do
  redis.call('UNLINK', shard .. ':b:' .. ARGV[i])
  redis.pcall('ZREM', shard .. ':m:' .. ARGV[i], ARGV[1])
end
local open = redis.call('HGET', shard, 'open')
return open == '1' and '' or open or '?'
