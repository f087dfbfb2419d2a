-- Opens a shard, if it is as somebody found it.
--
-- KEYS[1]  the shard
-- ARGV     the token of the change that closed it; '?' for a shard that was never open
-- Returns  1 if it is open now, else 0

local found = redis.call('HGET', KEYS[1], 'open') or '?'
if found == ARGV[1] then
  redis.call('HSET', KEYS[1], 'open', 1)
  found = '1'
end
return found == '1' and 1 or 0
