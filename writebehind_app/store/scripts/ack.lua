-- Drops the batch in flight: the database has it.
--
-- KEYS[1]  the shard
-- ARGV     token, rows that were written, dead letters, µs that it took; then for how many ms copies
--          are kept for reads, and id, copy, id, copy, ...
-- Returns  1, or 0 where another batch, or none, is in flight by now
--
-- A copy, ':c:<id>', is what the database has of an id after the batch. One from before it goes.
-- It counts only where nothing is pending or in flight; see read.lua and dry.lua.

local shard = KEYS[1]

local function place(id) -- as in append.lua
  local digest = redis.sha1hex(id)
  return shard .. ':taken:' .. string.sub(digest, 1, 3), string.sub(digest, 4, 24)
end

local state = redis.call('HMGET', shard, 'token', 'to', 'unique', 'no', 'retains', 'dry')
if state[1] ~= ARGV[1] then
  return 0
end
local flushed = 0
if state[2] then
  local log, times = shard .. ':log', shard .. ':times'
  local records = redis.call('XRANGE', log, '-', state[2])
  for _, record in ipairs(records) do
    local no, texts = string.match(record[1], '%d+'), {}
    redis.call('ZREM', times, no)
    for i = 1, math.min(tonumber(state[3]) or 0, #record[2] / 2) do
      texts[i] = record[2][2 * i]
    end
    local hash, field = place(table.concat(texts, ',')) -- the row is what takes the id from now on
    if redis.call('HGET', hash, field) == no then
      redis.call('HDEL', hash, field)
    end
  end
  local last = string.match(state[2], '%d+') .. '-18446744073709551615'
  redis.call('XTRIM', log, 'MINID', last)
  redis.call('XDEL', log, last)
  if tonumber(state[2]) > (tonumber(state[4]) or 0) and redis.call('XLEN', log) == 0 then
    redis.call('DEL', log) -- no append could follow a number that none of them gave
  end
  flushed = #records
end
local flight = shard .. ':flight'
local ids = redis.call('LRANGE', flight, 0, -1)
if ids[1] then
  local entries = {}
  for i, id in ipairs(ids) do
    entries[i] = shard .. ':f:' .. id
  end
  for i = 1, state[5] and #ids or 0 do
    entries[#entries + 1] = shard .. ':c:' .. ids[i]
  end
  for i = 1, #entries, 1000 do -- Lua unpacks a few thousand at most
    redis.call('UNLINK', unpack(entries, i, math.min(i + 999, #entries)))
  end
  redis.call('DEL', flight)
  flushed = flushed + #ids
end
if ARGV[6] and state[6] ~= ARGV[1] and redis.call('EXISTS', shard .. ':dry') == 0
  and type(redis.pcall('HSET', shard, 'retains', 1)) == 'number' then
  for i = 6, #ARGV, 2 do
    redis.pcall('SET', shard .. ':c:' .. ARGV[i], ARGV[i + 1], 'PX', ARGV[5]) -- it may be full
  end
end
redis.call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'to', 'flying')
redis.call('HINCRBY', shard, 'moves', 1)
redis.call('HINCRBY', shard, 'batches', 1)
redis.call('HINCRBY', shard, 'flushed', flushed)
redis.call('HINCRBY', shard, 'rows', ARGV[2])
redis.call('HINCRBY', shard, 'buried', ARGV[3])
redis.call('HSET', shard, 'took', ARGV[4])
return 1
