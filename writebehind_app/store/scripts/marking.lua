-- A row is about to be written past Redis: its base goes, and there is no new one until the mark goes.
-- UNLINK comes first: it takes no memory, so that a full Redis runs the rest.
local function mark(id, token, ms)
  redis.call('UNLINK', shard .. ':b:' .. id)
  local marks = shard .. ':m:' .. id
  redis.call('ZADD', marks, now + 1000 * ms, token)
  redis.call('PEXPIRE', marks, ms)
end
