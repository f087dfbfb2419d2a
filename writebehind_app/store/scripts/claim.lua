-- Makes pending entries the batch in flight, or takes over the one that a dead flusher left.
--
-- KEYS[1]  the shard
-- ARGV     fresh token, lease µs, size, which ('due', 'all' or 'ids'), '1' to ignore the backoff
--          or '', then the ids when which is 'ids'
-- Returns  {'batch', token, attempts, {id, {name, text, ...}}, ...}
--          {'busy', µs until the lease ends}     another flusher has the batch
--          {'backoff', µs until the next try}    the batch failed a moment ago
--          {'empty'}                             nothing to flush
--
-- RENAME freezes an entry: a write that comes now starts a new pending one. A log is frozen up to
-- the record 'to': what is appended now comes after it. A log is due, all of it, when its oldest
-- record is max_age old, or its newest is quiet old.
--
-- The token is chosen by the caller and random, so that a Redis that lost its last second can never
-- name another batch by a token that the ledger has already.

local shard = KEYS[1]
local due, flight, log = shard .. ':due', shard .. ':flight', shard .. ':log'
local token, lease, size, which = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local state = redis.call('HMGET', shard, 'token', 'lease', 'attempts', 'retry_at', 'to')
if state[1] then
  local left = tonumber(state[2]) - now
  if left > 0 then
    return {'busy', left}
  end
  local wait = tonumber(state[4] or 0) - now
  if wait > 0 and ARGV[5] ~= '1' then
    return {'backoff', wait}
  end
  -- A Redis that is full must still be drained: it lets a script write that began with a command
  -- that takes no memory.
  redis.call('HDEL', shard, 'retry_at')
  redis.call('HSET', shard, 'lease', now + lease)
  local reply = {'batch', state[1], tonumber(state[3] or 0)}
  for _, record in ipairs(state[5] and redis.call('XRANGE', log, '-', state[5]) or {}) do
    reply[#reply + 1] = record
  end
  for _, id in ipairs(redis.call('LRANGE', flight, 0, -1)) do
    reply[#reply + 1] = {id, redis.call('HGETALL', shard .. ':f:' .. id)}
  end
  return reply
end

local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if oldest then
  local options = redis.call('HMGET', shard, 'no', 'max_age', 'quiet')
  local no, newest, max_age, quiet = tonumber(string.match(oldest[1], '%d+')),
    tonumber(options[1]), tonumber(options[2]), tonumber(options[3])
  local is_due = no + max_age <= now or (quiet > 0 and newest + quiet <= now)
  if which == 'due' and not is_due then
    return {'empty'}
  end
  local reply = {'batch', token, 0}
  for _, record in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', size)) do
    reply[#reply + 1] = record
  end
  redis.call('HDEL', shard, 'retry_at') -- first, for a Redis that is full
  redis.call('HSET', shard, 'token', token, 'lease', now + lease, 'attempts', 0,
    'to', string.match(reply[#reply][1], '%d+'), 'flying', #reply - 3)
  return reply
end

local ids = {}
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, size)
elseif which == 'all' then
  ids = redis.call('ZRANGE', due, 0, size - 1)
else
  for i = 6, #ARGV do
    if redis.call('ZSCORE', due, ARGV[i]) then
      ids[#ids + 1] = ARGV[i]
    end
  end
end
if #ids == 0 then
  return {'empty'}
end

local reply = {'batch', token, 0}
for i, id in ipairs(ids) do
  local entry = shard .. ':f:' .. id
  -- An entry that something else took out of Redis does not keep the others from the database.
  redis.pcall('RENAME', shard .. ':e:' .. id, entry)
  reply[i + 3] = {id, redis.call('HGETALL', entry)}
end
for i = 1, #ids, 1000 do -- Lua unpacks a few thousand at most
  local last = math.min(i + 999, #ids)
  redis.call('ZREM', due, unpack(ids, i, last))
  redis.call('RPUSH', flight, unpack(ids, i, last))
end
redis.call('HSET', shard, 'token', token, 'lease', now + lease, 'attempts', 0)
redis.call('HINCRBY', shard, 'moves', 1)
return reply
