-- Lists entries, those in flight first, then the pending ones in the order in which they are due,
-- which of a log is the order in which they came.
--
-- KEYS[1]  the shard
-- ARGV     how many at most
-- Returns  {attempts, how many in flight, {id, {name, text, ...}}, ...}

local shard, limit = KEYS[1], tonumber(ARGV[1])
local flight = redis.call('LRANGE', shard .. ':flight', 0, limit - 1)
local state = redis.call('HMGET', shard, 'attempts', 'flying')
local reply = {tonumber(state[1]) or 0, math.min(tonumber(state[2]) or #flight, limit)}
local function texts_of(entry)
  local texts = redis.pcall('HGETALL', entry)
  if texts.err and not string.find(texts.err, 'WRONGTYPE') then -- as in claim.lua
    error(texts.err)
  end
  return texts.err and {'@', 'no hash'} or texts
end
for _, record in ipairs(redis.call('XRANGE', shard .. ':log', '-', '+', 'COUNT', limit)) do
  reply[#reply + 1] = record
end
for _, id in ipairs(flight) do
  reply[#reply + 1] = {id, texts_of(shard .. ':f:' .. id)}
end
if #flight < limit then
  for _, id in ipairs(redis.call('ZRANGE', shard .. ':due', 0, limit - #flight - 1)) do
    reply[#reply + 1] = {id, texts_of(shard .. ':e:' .. id)}
  end
end
return reply
