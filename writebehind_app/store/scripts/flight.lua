-- The beginning of each claim: the batch in flight, if there is one. Parts that take it over have
-- `token`, `now` and `state`.
--
-- KEYS[1]  the shard
-- ARGV     fresh token, lease µs, size, which ('due', 'all' or 'ids'), max_age µs, '1' to ignore the
--          backoff or '', '1' to hear which rows have bases or ''; then what the script takes
-- Returns  {'batch', token, attempts, why the last one failed, the number of the last write at the
--           claim, the number of the batch, {id, {name, text, ...}, 1 for a base}, ...}
--          {'busy', µs until the lease ends}     another flusher has the batch
--          {'backoff', µs until the next try}    the batch failed a moment ago
--          {'paused'}                            somebody paused the shard
--          {'empty'}                             nothing to flush
--
-- The caller chooses a random token. So a Redis that lost its last second can never give another
-- batch a token that the ledger has already.

local call, shard = redis.call, KEYS[1]
local due, flight = shard .. ':due', shard .. ':flight'
local fresh, lease, size, which, max_age = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local most_bytes = 4000000 -- of a batch, so that it fits into a statement of the database
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local state = call('HMGET', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'claimed',
  'paused', 'last', 'deletes', 'batch')
if state[7] then
  return {'paused'}
end
local token = state[1]
local is_token = token and #token <= 32 and string.find(token, '^%w+$')
if not is_token and (token or call('EXISTS', flight) == 1) then
  -- It is in no ledger: somebody else wrote it, or took it away.
  token = fresh
  call('HSET', shard, 'token', token)
end
-- Batches have numbers as writes have: of two of a shard, the later one has the greater one.
local earlier = tonumber(state[10]) or 0
local number = token and earlier or earlier < 2^52 and math.max(now, earlier + 1) or now
local reply = {'batch', token or fresh, tonumber(state[3]) or 0, state[5] or '',
  state[6] or state[8] or '', number}
if token then
  local left, wait = (tonumber(state[2]) or 0) - now, (tonumber(state[4]) or 0) - now
  if left > 0 and left <= 20 * lease then -- nobody's lease is longer by far
    return {'busy', left}
  elseif wait > 0 and wait < 86400000000 and ARGV[6] ~= '1' then
    return {'backoff', wait}
  end
end
-- First a command that takes no memory: a Redis that is full lets a script write that begins so.
call('HDEL', shard, 'retry_at')
