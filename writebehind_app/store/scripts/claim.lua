-- Makes pending entries the batch in flight, or takes over the one that a dead flusher left.
--
-- KEYS[1]  the shard
-- ARGV     as in flight.lua, then ids where `which` is 'ids'; or `which` is 'ripe'
-- Returns  as flight.lua
--
-- RENAME freezes an entry: a later write begins a new one.

-- include flight.lua
-- include texts.lua
local function has_base(id)
  return ARGV[7] == '1' and call('EXISTS', shard .. ':b:' .. id) or 0
end

if token then
  for _, id in ipairs(call('LRANGE', flight, 0, -1)) do
    reply[#reply + 1] = {id, texts_of(shard .. ':f:' .. id), has_base(id)}
  end
  call('HSET', shard, 'lease', now + lease)
  return reply
end

-- include chosen.lua
local bytes = 0
for _, id in ipairs(ids) do
  if bytes <= most_bytes then
    local texts = texts_of(shard .. ':e:' .. id)
    if texts[1] then -- else something took it out of Redis
      -- In this order, whichever of them the user may not do, a later claim finds the entry.
      call('RPUSH', flight, id)
      call('RENAME', shard .. ':e:' .. id, shard .. ':f:' .. id)
      reply[#reply + 1] = {id, texts, has_base(id)}
      bytes = bytes + #table.concat(texts)
    end
    call('ZREM', due, id)
  end
end
if not reply[7] then
  return {'empty'}
end
-- include claimed.lua
if state[9] and call('EXISTS', due) == 0 then -- no delete is pending any more
  call('HDEL', shard, 'deletes')
  call('HSET', shard, 'deleting', state[9])
end
return reply
