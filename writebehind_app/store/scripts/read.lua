-- Reads what is pending and what is in flight for some ids, at one moment.
--
-- KEYS[1]  the shard
-- ARGV     '1' for copies, or ''; then ids
-- Returns  {moves, token or '', attempts, {pending entry}, {entry in flight}, copy or '',
--          {pending entry}, ...}; a copy is all there is of an id: it is there only where nothing is
--          pending or in flight

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
local copies = ARGV[1] == '1' and redis.call('EXISTS', shard .. ':dry') == 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local pending = texts_of(shard .. ':e:' .. id)
  local in_flight = state[2] and texts_of(shard .. ':f:' .. id) or {}
  local copy = copies and #pending + #in_flight == 0 and redis.pcall('GET', shard .. ':c:' .. id)
  reply[#reply + 1] = pending
  reply[#reply + 1] = in_flight
  reply[#reply + 1] = type(copy) == 'string' and copy or ''
end
return reply
