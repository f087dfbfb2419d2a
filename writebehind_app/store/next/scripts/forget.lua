-- Forgets who wrote last ten minutes ago; nobody asks after a call for so long.
local senders, until_then = shard .. ':senders', now - 600000000
call('ZREMRANGEBYSCORE', senders, '-inf', until_then)
call('ZREMRANGEBYSCORE', senders, 2^52, 2^52 + until_then)
