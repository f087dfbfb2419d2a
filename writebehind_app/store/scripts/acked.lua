-- The end of each ack: no batch is in flight any more, and the guard changes.
call('DEL', shard .. ':flight') -- of a log, too, where somebody else wrote one
call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'claimed', 'to', 'flying',
  'deleting')
call('HSET', shard, 'acked', ARGV[1], 'guard', ARGV[1] .. '-', 'took', ARGV[4])
call('HINCRBY', shard, 'batches', 1)
call('HINCRBY', shard, 'flushed', flushed)
call('HINCRBY', shard, 'rows', ARGV[2])
call('HINCRBY', shard, 'buried', ARGV[3])
return 1
