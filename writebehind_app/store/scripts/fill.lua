-- Fills bases, if the reader still has their leases, and nothing is in flight.
--
-- KEYS[1]  the shard
-- ARGV     the lease, for how many µs bases are kept, how many bytes they may take; then id, base, ...
-- Returns  how many were filled
--
-- A base ends when its lease would have ended: what was read after the lease is no older.

local shard, time = KEYS[1], redis.call('TIME')
local now, filled = time[1] * 1000000 + time[2], 0
-- include keeping.lua
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  local base = shard .. ':b:' .. id
  if redis.pcall('GET', base) == ARGV[1] and redis.call('EXISTS', shard .. ':f:' .. id) == 0 then
    local size = #ARGV[1] + 2 * #id + 300 -- of the lease, as in keeping.lua
    if redis.call('ZREM', shard .. ':bases', size .. ' ' .. id) == 1 then
      redis.call('DECRBY', shard .. ':bytes', size)
    end
    keep(id, ARGV[i + 1], 1000 * redis.call('PTTL', base), tonumber(ARGV[2]), tonumber(ARGV[3]))
    filled = filled + 1
  end
end
return filled
