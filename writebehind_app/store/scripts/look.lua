-- Reads what is pending and in flight of rows that are about to be written past Redis: it is older.
-- If there is something, the write gets a number, and later sums begin anew. If there may be bases,
-- the rows are marked.
--
-- KEYS[1]  the shard
-- ARGV     the token of the write or '', for how many ms rows are marked; then ids
-- Returns  {number or 0, token, why the shard is not open or '', {pending}, {in flight},
--           {pending}, ...}

local shard, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- include marking.lua
local state = redis.call('HMGET', shard, 'token', 'last', 'open')
local reply, found = {0, state[1] or '', state[3] == '1' and '' or state[3] or '?'}, false
-- include texts.lua
for i = 1, #ARGV - 2 do
  local id = ARGV[i + 2]
  if ARGV[1] ~= '' then
    mark(id, ARGV[1], ARGV[2])
  end
  local pending = texts_of(shard .. ':e:' .. id)
  local in_flight = state[1] and texts_of(shard .. ':f:' .. id) or {}
  found = found or pending[1] or in_flight[1]
  reply[2 * i + 2], reply[2 * i + 3] = pending, in_flight
end
if found then
  local before = tonumber(state[2]) or 0
  reply[1] = before < 2^52 and math.max(now, before + 1) or now -- or somebody else wrote it
  redis.call('HSET', shard, 'last', reply[1])
  for i = 1, #ARGV - 2 do
    if reply[2 * i + 2][1] then -- somebody else may have put no hash there
      redis.pcall('HSET', shard .. ':e:' .. ARGV[i + 2], '|', reply[1])
    end
  end
end
return reply
