-- Moves away what somebody else wrote to the keys of a shard, so that its scripts run again.
--
-- KEYS[1]  the shard
-- Returns  nothing

local shard = KEYS[1]
local function aside(suffix, kind)
  local found = redis.call('TYPE', shard .. suffix).ok
  if found ~= 'none' and found ~= kind then
    redis.call('RENAME', shard .. suffix, shard .. ':aside' .. suffix)
  end
end
for suffix, kind in pairs({
  [''] = 'hash', [':due'] = 'zset', [':flight'] = 'list', [':senders'] = 'zset', [':log'] = 'stream',
  [':times'] = 'zset', [':discarded'] = 'zset', [':bases'] = 'zset', [':bytes'] = 'string',
}) do
  aside(suffix, kind)
end
for i = 0, 4095 do -- see place.lua
  aside(string.format(':taken:%03x', i), 'hash')
end

-- As HINCRBY takes a number, and no more than any clock says for centuries.
local function is_number(text)
  return not text or text == '0' or (#text <= 16 and string.find(text, '^[1-9]%d*$'))
end
for _, name in ipairs({'last', 'first', 'forgot', 'closed', 'batches', 'accepted', 'flushed',
  'discarded', 'lease', 'attempts', 'batch', 'retry_at', 'claimed', 'flying', 'max_age', 'quiet', 'unique',
  'rows', 'buried', 'took', 'retries', 'fallbacks'}) do
  if not is_number(redis.call('HGET', shard, name)) then
    redis.call('HDEL', shard, name)
  end
end
if not is_number(redis.call('HGET', shard, 'to')) then
  redis.call('HDEL', shard, 'token', 'to', 'flying')
end
