-- The end of each claim of a new batch. Senders that wrote last ten minutes ago are forgotten: nobody
-- asks about a call that late.
call('HSET', shard, 'token', fresh, 'guard', fresh, 'lease', now + lease, 'attempts', 0,
  'claimed', state[8] or 0, 'batch', number)
call('HDEL', shard, 'crowded', 'error')
local senders, until_then = shard .. ':senders', now - 600000000
call('ZREMRANGEBYSCORE', senders, '-inf', until_then)
call('ZREMRANGEBYSCORE', senders, 2^52, 2^52 + until_then)
