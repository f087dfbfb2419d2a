-- Reads a page of entries in the order of their places. The place of a pending entry is the time in
-- µs at which it is due. The place of an entry in flight is its index in the batch.

-- include paged.lua
-- include texts.lua

local due, flight, most = shard .. ':due', shard .. ':flight', tonumber(ARGV[8])
local function add(id, place, kind)
  if string.sub(id, 1, #beginning) == beginning and #reply - 3 < count then
    reply[#reply + 1] = {id, place, shortened(texts_of(shard .. kind .. id), 17)}
  end
end

if which == 'in_flight' then
  local first = math.max(tonumber(least) or 0, 0)
  local last = beginning == '' and first + count - 1 or -1
  for i, id in ipairs(redis.call('LRANGE', flight, first, last)) do
    add(id, string.format('%d', first + i - 1), ':f:')
  end
  return reply
end

-- How many are beyond a bound, and so not between the two.
local function beyond(bound, is_least)
  if bound == '-inf' or bound == '+inf' then
    return 0
  end
  local other = string.sub(bound, 1, 1) == '(' and string.sub(bound, 2) or '(' .. bound
  return redis.call('ZCOUNT', due, is_least and '-inf' or other, is_least and other or '+inf')
end

-- Ranks, from the end at which the list begins.
local first = beyond(reverse and greatest or least, not reverse)
local last = redis.call('ZCARD', due) - 1 - beyond(reverse and least or greatest, reverse)
local place = before ~= '' and redis.call('ZSCORE', due, before)
if place and tonumber(place) == tonumber(reverse and greatest or least) then
  first = 1 + (reverse and redis.call('ZREVRANK', due, before) or redis.call('ZRANK', due, before))
end
local chunk, looked, seen = beginning == '' and count or 1000, 0, ''
while first <= last and #reply - 3 < count and (looked == 0 or looked + chunk <= most) do
  local stop = math.min(first + chunk - 1, last)
  local found = reverse and redis.call('ZREVRANGE', due, first, stop)
    or redis.call('ZRANGE', due, first, stop)
  for _, id in ipairs(found) do
    add(id, redis.call('ZSCORE', due, id), ':e:')
  end
  first, looked, seen = stop + 1, looked + chunk, found[#found]
end
if first <= last and #reply - 3 < count then
  reply[3] = {seen, redis.call('ZSCORE', due, seen)}
end
return reply
