-- Renews the lease of the batch in flight, for so many µs from now.

-- include mine.lua
call('HSET', shard, 'lease', now + ARGV[2])
return 1
