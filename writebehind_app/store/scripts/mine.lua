-- The beginning of each script that is for the flusher of the batch in flight.
--
-- KEYS[1]  the shard
-- ARGV     the token; then what the script takes
-- Returns  1; or 0 if another batch, or none, is in flight by now

local call, shard = redis.call, KEYS[1]
if call('HGET', shard, 'token') ~= ARGV[1] then
  return 0
end
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
