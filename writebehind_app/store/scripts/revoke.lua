-- Gives the batch in flight the token that follows: nothing may be applied under the old one. The
-- next claim gets the batch under the new one.

-- include mine.lua
call('HDEL', shard, 'retry_at') -- first, as in flight.lua
local number = math.max(now, (tonumber(call('HGET', shard, 'batch')) or 0) + 1)
call('HSET', shard, 'token', ARGV[2], 'guard', ARGV[2], 'lease', 0, 'batch', number)
return 1
