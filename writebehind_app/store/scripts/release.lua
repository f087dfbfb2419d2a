-- Gives the batch in flight back; the next try is in so many µs. Then comes what went wrong, or '' if
-- the batch was only in the way of others.

-- include mine.lua
call('HDEL', shard, 'retry_at') -- first, as in flight.lua
if ARGV[3] ~= '' then
  call('HINCRBY', shard, 'attempts', 1)
  call('HINCRBY', shard, 'retries', 1)
  call('HSET', shard, 'error', ARGV[3])
end
call('HSET', shard, 'lease', 0, 'retry_at', now + ARGV[2])
return 1
