-- Makes pending entries the batch in flight, or takes over the one that a dead flusher left.
--
-- KEYS[1]  the shard
-- ARGV     as in flight.lua, then ids where `which` is 'ids'; or `which` is 'ripe'
-- Returns  as flight.lua
--
-- A shard is due when its oldest entry is: then what else waits goes along, unless `which` is 'ripe'.
-- What hasten.lua made due has 1 for its time, and goes alone.
-- RENAME freezes an entry: a write that comes now begins a new one.

-- include flight.lua
-- include texts.lua

if token then
  for _, id in ipairs(call('LRANGE', flight, 0, -1)) do
    reply[#reply + 1] = {id, texts_of(shard .. ':f:' .. id)}
  end
  call('HSET', shard, 'lease', now + lease)
  return reply
end

local ids = {}
if which == 'ids' then
  for i = 7, #ARGV do
    ids[#ids + 1] = call('ZSCORE', due, ARGV[i]) and ARGV[i] or nil
  end
else
  -- What was written while the clock was ahead is not due for long. It goes first.
  ids = call('ZRANGEBYSCORE', due, string.format('(%.0f', now + max_age), '+inf', 'LIMIT', 0, size)
  local is_due = ids[1] or call('ZCOUNT', due, 2, now) > 0
  local whole = which == 'all' or is_due and which ~= 'ripe'
  local to = whole and string.format('%.0f', now + max_age) or now
  for _, id in ipairs(call('ZRANGEBYSCORE', due, '-inf', to, 'LIMIT', 0, size - #ids)) do
    ids[#ids + 1] = id
  end
end
local bytes = 0
for _, id in ipairs(ids) do
  if bytes <= most_bytes then
    local texts = texts_of(shard .. ':e:' .. id)
    call('ZREM', due, id)
    if texts[1] then -- else something took it out of Redis
      call('RENAME', shard .. ':e:' .. id, shard .. ':f:' .. id)
      call('RPUSH', flight, id)
      reply[#reply + 1] = {id, texts}
      bytes = bytes + #table.concat(texts)
    end
  end
end
if not reply[6] then
  return {'empty'}
end
-- include claimed.lua
return reply
