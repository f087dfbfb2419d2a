-- The beginning of each call that writes: is it in time, and which number has its first write.
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
local state = call('HMGET', shard, 'last', 'accepted', 'version', 'closed', 'crowded', 'open')
if state[6] ~= '1' then
  return {now, 'closed', state[6] or '?'}
end
local before = tonumber(state[1]) or 0
local first = before < 2^52 and math.max(now, before + 1) or now -- or somebody else wrote it
local closed = tonumber(state[4]) or 0 -- the numbers of sums that must not go on
