-- Throws entries away: pending ones, and those of a batch that nobody is working on, because the
-- database refused it or its flusher died. Whoever works on a batch may have committed it.
--
-- KEYS[1]  the shard
-- ARGV     how many at most, then ids; without ids, those of such a batch, then those due first
-- Returns  how many went
--
-- The numbers of the last thousand are kept, so that a receipt can tell a discarded write from a
-- flushed one; 'forgot' is the highest number that was there and is not any more.

local shard, limit = KEYS[1], tonumber(ARGV[1])
local due, flight, gone = shard .. ':due', shard .. ':flight', shard .. ':discarded'
local ids = {unpack(ARGV, 2)}
local all = #ids == 0

local time = redis.call('TIME')
local lease = redis.call('HGET', shard, 'lease')
local idle = lease and tonumber(lease) <= time[1] * 1000000 + time[2]
if all then
  ids = idle and redis.call('LRANGE', flight, 0, limit - 1) or {}
  for _, id in ipairs(redis.call('ZRANGE', due, 0, limit - #ids - 1)) do
    ids[#ids + 1] = id
  end
end

local count = 0
local function discard(entry)
  local head = redis.call('HGET', entry, '@')
  if head then
    local no = string.match(head, '%d+')
    redis.call('UNLINK', entry)
    redis.call('ZADD', gone, no, no)
    count = count + 1
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
if idle and redis.call('EXISTS', flight) == 0 then
  redis.call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error')
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
