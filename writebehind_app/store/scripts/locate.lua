-- Says where the write with this number is.
--
-- KEYS[1]  the shard
-- ARGV     id, number
-- Returns  'pending', 'in_flight', 'stored' (in the database, or a dead letter), 'discarded', or
--          'lost' (Redis lost it, or does not know any more)

local shard, id, number = KEYS[1], ARGV[1], tonumber(ARGV[2])
local function has(entry)
  local found = redis.pcall('HMGET', entry, '#', '@', '!')
  local first, last = tonumber(found[1] or nil), tonumber(found[2] or found[3] or nil)
  return first and last and first <= number and number <= last
end
if has(shard .. ':e:' .. id) then
  return 'pending'
elseif has(shard .. ':f:' .. id) then
  return 'in_flight'
end
-- include located.lua
