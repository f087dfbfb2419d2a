-- How each claim of a new batch ends. Who wrote last ten minutes ago is forgotten: nobody asks after
-- a call for so long.
call('HSET', shard, 'token', fresh, 'guard', fresh, 'lease', now + lease, 'attempts', 0,
  'claimed', state[8] or 0)
call('HDEL', shard, 'crowded', 'error')
local senders, until_then = shard .. ':senders', now - 600000000
call('ZREMRANGEBYSCORE', senders, '-inf', until_then)
call('ZREMRANGEBYSCORE', senders, 2^52, 2^52 + until_then)
