-- Says where a record is, as locate.lua does for a write. The id is ''.

local shard, id, number = KEYS[1], ARGV[1], tonumber(ARGV[2])
if redis.call('XRANGE', shard .. ':log', ARGV[2], ARGV[2])[1] then
  local to = tonumber(redis.call('HGET', shard, 'to') or nil)
  return to and number <= to and 'in_flight' or 'pending'
end
-- include located.lua
