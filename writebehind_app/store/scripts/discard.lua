-- Throws entries away: pending ones, and those of a batch that nobody works on any more.
--
-- KEYS[1]  the shard
-- ARGV     how many at most, the token of the batch that nobody works on or '', a random text for
--          the guard; then ids. Without ids, first the entries of that batch go, then those due first
-- Returns  how many went

-- include discards.lua

local ids = {unpack(ARGV, 4)}
local most = tonumber(ARGV[1])
if not ids[1] then
  ids = is_idle and call('LRANGE', flight, 0, most - 1) or {}
  for _, id in ipairs(call('ZRANGE', shard .. ':due', 0, most - #ids - 1)) do
    ids[#ids + 1] = id
  end
end
local function discard(entry, id)
  local found = redis.pcall('HMGET', entry, '#', '@', '!')
  if call('UNLINK', entry) == 1 then -- whatever is there
    discarded(tonumber(found[2] or found[3] or 0) or 0, (found[1] or '0') .. ' ' .. id)
  end
end
for _, id in ipairs(ids) do
  if is_idle and call('LREM', flight, 1, id) == 1 then
    discard(shard .. ':f:' .. id, id)
  end
  if call('ZREM', shard .. ':due', id) == 1 then
    discard(shard .. ':e:' .. id, id)
  end
end
if is_idle and call('EXISTS', flight) == 0 then
  call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'claimed')
end
-- include discards_end.lua
