-- Throws entries away: pending ones, and those of a batch that nobody works on any more. Whoever
-- works on a batch may have committed it.
--
-- KEYS[1]  the shard
-- ARGV     how many at most, the token of a batch that nobody works on any more or '', then ids (of
--          a log: unique ids, or '#number'); without ids, those of that batch, then those due first
-- Returns  how many went
--
-- The numbers of the last thousand are kept, so that a receipt can tell a discarded write from a
-- flushed one; 'forgot' is the highest number that was there and is not any more.

local shard, limit = KEYS[1], tonumber(ARGV[1])
local due, flight, gone = shard .. ':due', shard .. ':flight', shard .. ':discarded'
local log, times = shard .. ':log', shard .. ':times'
local ids = {unpack(ARGV, 3)}
local all = #ids == 0

local time = redis.call('TIME')
local state = redis.call('HMGET', shard, 'lease', 'to', 'unique', 'token')
local lease, to = tonumber(state[1]), tonumber(state[2])
local idle = lease and lease <= time[1] * 1000000 + time[2] and state[4] == ARGV[2]

local count = 0
local function discarded(no)
  redis.call('ZADD', gone, no, no)
  count = count + 1
end

-- A log

local function place(id) -- as in append.lua
  local digest = redis.sha1hex(id)
  return shard .. ':taken:' .. string.sub(digest, 1, 3), string.sub(digest, 4, 24)
end

local function discard_record(record)
  local no, texts = string.match(record[1], '%d+'), {}
  redis.call('XDEL', log, record[1])
  redis.call('ZREM', times, no)
  for i = 1, math.min(tonumber(state[3]) or 0, #record[2] / 2) do
    texts[i] = record[2][2 * i]
  end
  local hash, field = place(table.concat(texts, ','))
  if redis.call('HGET', hash, field) == no then
    redis.call('HDEL', hash, field)
  end
  if to and tonumber(no) <= to then
    redis.call('HINCRBY', shard, 'flying', -1)
  end
  discarded(no)
end

local after = to and not idle and '(' .. state[2] or '-' -- what is in work is before it
local records = all and redis.call('XRANGE', log, after, '+', 'COUNT', limit) or {}
for _, id in ipairs(redis.call('EXISTS', log) == 1 and ids or {}) do
  local no = string.match(id, '^#(%d+)$') or redis.call('HGET', place(id))
  if no and (after == '-' or tonumber(no) > to) then
    records[#records + 1] = redis.call('XRANGE', log, no, no)[1]
  end
end
for _, record in ipairs(records) do
  discard_record(record)
end

-- Rows and entities

if all then
  ids = idle and redis.call('LRANGE', flight, 0, limit - 1) or {}
  for _, id in ipairs(redis.call('ZRANGE', due, 0, limit - #ids - 1)) do
    ids[#ids + 1] = id
  end
end

local function discard(entry)
  local head = redis.pcall('HGET', entry, '@')
  if redis.call('UNLINK', entry) == 1 then -- whatever is there
    discarded(type(head) == 'string' and string.match(head, '^%d+') or '0')
  end
end

for _, id in ipairs(ids) do
  if idle and redis.call('LREM', flight, 1, id) == 1 then
    discard(shard .. ':f:' .. id)
  end
  if redis.call('ZREM', due, id) == 1 then
    discard(shard .. ':e:' .. id)
  end
end

-- Both

if idle and redis.call('EXISTS', flight) == 0
  and tonumber(redis.call('HGET', shard, 'flying') or 0) == 0 then
  redis.call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'to', 'flying')
end
if count > 0 then
  local forgotten = redis.call('ZRANGE', gone, -1001, -1001)
  if forgotten[1] then
    redis.call('HSET', shard, 'forgot', forgotten[1])
    redis.call('ZREMRANGEBYRANK', gone, 0, -1001)
  end
  redis.call('HINCRBY', shard, 'discarded', count)
  redis.call('HINCRBY', shard, 'moves', 1)
end
return count
