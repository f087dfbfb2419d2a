-- Gives the batch in flight back after the database refused it; the next try is in so many µs. Then
-- comes what went wrong.

-- include mine.lua
call('HDEL', shard, 'error') -- first, as in flight.lua
call('HINCRBY', shard, 'attempts', 1)
call('HINCRBY', shard, 'retries', 1)
call('HSET', shard, 'lease', 0, 'retry_at', now + ARGV[2], 'error', ARGV[3])
return 1
