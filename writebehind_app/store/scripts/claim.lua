-- Makes pending entries the batch in flight, or takes over the one that a dead flusher left.
--
-- KEYS[1]  the shard
-- ARGV     fresh token, lease µs, size, which ('due', 'all' or 'ids'), '1' to ignore the backoff
--          or '', then the ids when which is 'ids'
-- Returns  {'batch', token, attempts, why the last one failed, {id, {name, text, ...}}, ...}
--          {'busy', µs until the lease ends}     another flusher has the batch
--          {'backoff', µs until the next try}    the batch failed a moment ago
--          {'paused'}                            somebody said that nothing is to be flushed
--          {'empty'}                             nothing to flush
--
-- RENAME freezes an entry: a write that comes now starts a new pending one. A log is frozen up to
-- the record 'to': what is appended now comes after it. A log is due, all of it, when its oldest
-- record is max_age old, or its newest is quiet old.
--
-- The token is chosen by the caller and random, so that a Redis that lost its last second can never
-- name another batch by a token that the ledger has already.
--
-- A batch has some 4 MB at most, so that it fits into a statement of the database.
--
-- What somebody else wrote to Redis must not keep the rest from the database: it becomes an entry
-- whose '@' says what it is, or what no script wrote counts as not being there.

local shard = KEYS[1]
local due, flight, log = shard .. ':due', shard .. ':flight', shard .. ':log'
local token, lease, size, which = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local most_bytes = 4000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function texts_of(entry)
  local texts = redis.pcall('HGETALL', entry)
  if texts.err then
    if not string.find(texts.err, 'WRONGTYPE') then
      error(texts.err) -- the user may not ask: that is not the entry's fault
    end
    local kind = redis.call('TYPE', entry).ok
    texts = {'@', 'a ' .. kind, '', kind == 'string' and redis.call('GETRANGE', entry, 0, 999) or ''}
  end
  return texts
end

local state = redis.call('HMGET', shard, 'token', 'lease', 'attempts', 'retry_at', 'to', 'no',
  'paused', 'error')
if state[7] then
  return {'paused'}
end
local newest = tonumber(state[6])
local function record_of(found) -- one of a number that no append has given is somebody else's
  if newest and tonumber(string.match(found[1], '%d+')) > newest then
    return {found[1], {'@', 'a number to come', unpack(found[2], 1, math.min(#found[2], 1000))}}
  end
  return found
end

if state[1] and (#state[1] > 32 or string.find(state[1], '%W')) or
  not state[1] and redis.call('EXISTS', flight) == 1 then
  state[1] = token
  redis.call('HDEL', shard, 'lease', 'retry_at')
  redis.call('HSET', shard, 'token', token)
end
if state[1] then
  local left = (tonumber(state[2]) or 0) - now
  if left > 0 and left <= 20 * lease then -- nobody's lease is longer by far
    return {'busy', left}
  end
  local wait = (tonumber(state[4]) or 0) - now
  if wait > 0 and wait < 86400000000 and ARGV[5] ~= '1' then
    return {'backoff', wait}
  end
  -- A Redis that is full must still be drained: it lets a script write that began with a command
  -- that takes no memory.
  redis.call('HDEL', shard, 'retry_at')
  redis.call('HSET', shard, 'lease', now + lease)
  local reply = {'batch', state[1], tonumber(state[3]) or 0, state[8] or ''}
  for _, record in ipairs(state[5] and redis.call('XRANGE', log, '-', state[5]) or {}) do
    reply[#reply + 1] = record_of(record)
  end
  for _, id in ipairs(redis.call('LRANGE', flight, 0, -1)) do
    reply[#reply + 1] = {id, texts_of(shard .. ':f:' .. id)}
  end
  return reply
end

local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if oldest then
  local options = redis.call('HMGET', shard, 'max_age', 'quiet')
  local no, max_age, quiet = tonumber(string.match(oldest[1], '%d+')),
    tonumber(options[1]) or 0, tonumber(options[2]) or 0
  local is_due = no + max_age <= now or (quiet > 0 and (newest or 0) + quiet <= now)
    or no > (newest or 0)
  if which == 'due' and not is_due then
    return {'empty'}
  end
  local reply = {'batch', token, 0, ''}
  local after, count, bytes, taken = '-', 1, 0, 0
  while count > 0 do -- one at first, which tells how long the others may be
    local found = redis.call('XRANGE', log, after, '+', 'COUNT', count)
    for _, record in ipairs(found) do
      reply[#reply + 1], after = record_of(record), '(' .. record[1]
      bytes = bytes + #table.concat(record[2])
    end
    taken = taken + #found
    local fit = math.ceil((most_bytes - bytes) * taken / (bytes + 1))
    count = #found == count and math.min(fit, size - taken, 20 * taken) or 0
  end
  redis.call('HDEL', shard, 'retry_at') -- first, for a Redis that is full
  redis.call('HSET', shard, 'token', token, 'lease', now + lease, 'attempts', 0,
    'to', string.match(reply[#reply][1], '%d+'), 'flying', #reply - 4)
  return reply
end

local ids = {}
if which == 'due' then
  ids = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, size)
elseif which == 'all' then
  ids = redis.call('ZRANGE', due, 0, size - 1)
else
  for i = 6, #ARGV do
    if redis.call('ZSCORE', due, ARGV[i]) or redis.call('EXISTS', shard .. ':e:' .. ARGV[i]) == 1 then
      ids[#ids + 1] = ARGV[i]
    end
  end
end
if #ids == 0 then
  return {'empty'}
end

local reply, bytes = {'batch', token, 0, ''}, 0
for i, id in ipairs(ids) do
  if bytes > most_bytes then
    break
  end
  local entry = shard .. ':f:' .. id
  -- Read first: what the user may not do at all fails before anything is moved.
  local texts = texts_of(shard .. ':e:' .. id)
  -- An entry that something else took out of Redis does not keep the others from the database.
  local moved = redis.pcall('RENAME', shard .. ':e:' .. id, entry)
  if type(moved) == 'table' and moved.err and not string.find(moved.err, 'no such key') then
    error(moved.err)
  end
  reply[i + 4] = {id, texts}
  bytes = bytes + #table.concat(texts)
end
local count = #reply - 4
for i = 1, count, 1000 do -- Lua unpacks a few thousand at most
  local last = math.min(i + 999, count)
  redis.call('ZREM', due, unpack(ids, i, last))
  redis.call('RPUSH', flight, unpack(ids, i, last))
end
redis.call('HSET', shard, 'token', token, 'lease', now + lease, 'attempts', 0)
redis.call('HINCRBY', shard, 'moves', 1)
return reply
