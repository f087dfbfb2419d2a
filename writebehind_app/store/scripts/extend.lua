-- Adds pending entries to the batch in flight. The batch gets a new token: nothing may be applied
-- under the old one any more.
--
-- KEYS[1]  the shard
-- ARGV     the token, the fresh one or '' to ask whether there are any, lease µs, how many at most,
--          the number before which they were written or '', max_age µs, or ids
-- Returns  {the number of the batch, {{id, {name, text, ...}}, ...}}, or ids if that was asked; 0 if
--          another batch, or none, is in flight by now
--
-- If an id is in flight already, both become one entry.

-- include mine.lua
-- include texts.lua
local due, flight, fresh = shard .. ':due', shard .. ':flight', ARGV[2]
local ids, reply, bytes, before = {unpack(ARGV, 7)}, {}, 0, tonumber(ARGV[5])
if before then
  local to, most = string.format('(%.0f', before + ARGV[6]), ARGV[4] + 10000
  ids = call('ZRANGEBYSCORE', due, '-inf', to, 'LIMIT', 0, most)
end
if fresh ~= '' then
  call('HDEL', shard, 'retry_at') -- first, as in flight.lua
end
for _, id in ipairs(ids) do
  local entry, frozen = shard .. ':e:' .. id, shard .. ':f:' .. id
  local since = call('ZSCORE', due, id) and redis.pcall('HGET', entry, '#')
  local is_there = call('EXISTS', frozen) == 1
  if since and (not before or (tonumber(since) or 0) < before) and #reply < tonumber(ARGV[4])
    and bytes <= 4000000
    and not (is_there and (call('TYPE', frozen).ok ~= 'hash' or type(since) == 'table')) then
    if fresh == '' then
      return {id}
    end
    if is_there then
      -- include join.lua
    else
      call('RPUSH', flight, id) -- in this order, as in claim.lua
      call('RENAME', entry, frozen)
    end
    call('ZREM', due, id)
    local texts = texts_of(frozen)
    reply[#reply + 1], bytes = {id, texts}, bytes + #table.concat(texts)
  end
end
if fresh ~= '' then
  local number = math.max(now, (tonumber(call('HGET', shard, 'batch')) or 0) + 1)
  call('HSET', shard, 'token', fresh, 'guard', fresh, 'lease', now + ARGV[3], 'batch', number)
  return {number, reply}
end
return reply
