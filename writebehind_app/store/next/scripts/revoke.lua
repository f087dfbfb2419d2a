-- Gives the batch in flight the token that comes next: nothing may be applied under the old one.
-- Whoever claims next works on it under the new one.

-- include mine.lua
call('HDEL', shard, 'retry_at') -- first, as in flight.lua
call('HSET', shard, 'token', ARGV[2], 'guard', ARGV[2], 'lease', 0)
return 1
