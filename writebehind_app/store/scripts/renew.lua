-- Renews the lease of the batch in flight, for so many µs from now.

-- include mine.lua
call('HDEL', shard, 'retry_at') -- first, as in flight.lua
call('HSET', shard, 'lease', now + ARGV[2])
return 1
