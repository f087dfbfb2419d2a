-- Throws pending entries away. A batch in flight is not touched: it may be in the database already.
--
-- KEYS[1]  the shard
-- ARGV     how many at most, then ids; without ids, those due first
-- Returns  how many went
--
-- The numbers of the last thousand are kept for an hour, so that a receipt can tell a discarded
-- write from a flushed one.

local shard = KEYS[1]
local due, gone = shard .. ':due', shard .. ':discarded'
local ids = {unpack(ARGV, 2)}
if #ids == 0 then
  ids = redis.call('ZRANGE', due, 0, tonumber(ARGV[1]) - 1)
end
local count = 0
for _, id in ipairs(ids) do
  local entry = shard .. ':e:' .. id
  local head = redis.call('HGET', entry, '@')
  if head then
    local no = string.match(head, '%d+')
    redis.call('ZREM', due, id)
    redis.call('UNLINK', entry)
    redis.call('ZADD', gone, no, no)
    count = count + 1
  end
end
if count > 0 then
  redis.call('ZREMRANGEBYRANK', gone, 0, -1001)
  redis.call('EXPIRE', gone, 3600)
  redis.call('HINCRBY', shard, 'discarded', count)
  redis.call('HINCRBY', shard, 'moves', 1)
end
return count
