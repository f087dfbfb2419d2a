-- Reads what is pending and what is in flight for some ids, at one moment.
--
-- KEYS[1]  the shard
-- ARGV     ids
-- Returns  {moves, token or '', attempts, {pending entry}, {entry in flight}, {pending entry}, ...}

local shard = KEYS[1]
local state = redis.call('HMGET', shard, 'moves', 'token', 'attempts')
local function number(text) -- as in write.lua
  return text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text) or 0
end
local reply = {number(state[1]), state[2] or '', number(state[3])}
local function texts_of(entry)
  local texts = redis.pcall('HGETALL', entry)
  if texts.err and not string.find(texts.err, 'WRONGTYPE') then -- as in claim.lua
    error(texts.err)
  end
  return texts.err and {'@', 'no hash'} or texts
end
for _, id in ipairs(ARGV) do
  reply[#reply + 1] = texts_of(shard .. ':e:' .. id)
  reply[#reply + 1] = state[2] and texts_of(shard .. ':f:' .. id) or {}
end
return reply
