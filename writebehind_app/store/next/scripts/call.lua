-- How each call that writes begins: whether it comes in time, and the number of its first write.
--
-- KEYS[1]  the shard
-- ARGV     sender, deadline µs, how many entries there may be or '-', version of the declaration,
--          max_age µs, quiet µs; then what the script takes

local call, shard = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[2]) then
  return {now, 'late'}
end
local state = call('HMGET', shard, 'last', 'accepted', 'version', 'closed', 'crowded')
local first = math.max(now, (tonumber(state[1]) or 0) + 1)
local closed = tonumber(state[4]) or 0 -- the numbers of sums that must not go on
