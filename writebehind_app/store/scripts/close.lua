-- Closes a shard that is open: it takes no writes any more.
--
-- KEYS[1]  the shard
-- ARGV     the token of the change
-- Returns  the token of the change that has closed it: another one may have been quicker

local found = redis.call('HGET', KEYS[1], 'open') or '1'
if found == '1' then
  redis.call('HSET', KEYS[1], 'open', ARGV[1])
  found = ARGV[1]
end
return found
