-- Ends a change that is under way still. With a division, that one is in force from now on.
--
-- KEYS[1]  the buffer
-- ARGV     the token of the change; then how many shards the division has, and its number
-- Returns  1; or 0 if the change is not under way any more

local buffer = KEYS[1]
if redis.call('HGET', buffer, 'change') ~= ARGV[1] then
  return 0
end
if ARGV[2] then
  redis.call('HSET', buffer, 'shards', ARGV[2], 'number', ARGV[3])
end
redis.call('HDEL', buffer, 'change', 'since')
return 1
