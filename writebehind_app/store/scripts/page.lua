-- Reads a page of entries from the index, in the order of their places. The place of a pending entry
-- is the time at which it is due, in µs; that of an entry in flight is its index in the batch; and
-- that of a record of a log, in flight or not, is its number.
--
-- KEYS[1]  the shard
-- ARGV     'pending' or 'in_flight', how many at most, '1' for the last ones first, the least and
--          the greatest place as ZRANGE takes them, and the id of the entry before the page, or ''
-- Returns  {attempts, error, {id, place, {name, text, ...}}, ...}; the first two are of the batch,
--          and of a text that nobody reads in a list there is no more than that it is long

local shard, which, count, reverse = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local least, greatest, before = ARGV[4], ARGV[5], ARGV[6]
local due, flight, log = shard .. ':due', shard .. ':flight', shard .. ':log'

local state = redis.call('HMGET', shard, 'attempts', 'error', 'to')
local reply = {tonumber(state[1]) or 0, state[2] or ''}
local function shortened(texts, first) -- where a value begins
  for i = 2, #texts, 2 do
    if #texts[i] > 10000 then
      local is_json = string.sub(texts[i], first, first) == '['
      texts[i] = string.sub(texts[i], 1, first - 1) .. (is_json and '["…"]' or '"…"')
    end
  end
  return texts
end
local function texts_of(entry)
  local texts = redis.pcall('HGETALL', entry)
  return texts.err and {'@', 'no hash'} or shortened(texts, 17) -- as in claim.lua
end

if redis.call('EXISTS', log) == 1 then
  local to = string.match(state[3] or '', '^%d+$')
  if which == 'in_flight' then
    if not to then
      return reply
    end
    greatest = to
  elseif to and (tonumber(string.match(least, '%d+')) or 0) <= tonumber(to) then
    least = '(' .. to
  end
  if before ~= '' and reverse then
    greatest = '(' .. greatest
  elseif before ~= '' then
    least = '(' .. least
  end
  local function bound(place) -- as XRANGE takes it
    return ({['-inf'] = '-', ['+inf'] = '+'})[place] or place .. '-0'
  end
  least, greatest = bound(least), bound(greatest)
  local found = reverse and redis.call('XREVRANGE', log, greatest, least, 'COUNT', count)
    or redis.call('XRANGE', log, least, greatest, 'COUNT', count)
  for _, record in ipairs(found) do
    reply[#reply + 1] = {record[1], string.match(record[1], '^%d+'), shortened(record[2], 1)}
  end
  return reply
end

if which == 'in_flight' then
  local first = math.max(tonumber(least) or 0, 0)
  for i, id in ipairs(redis.call('LRANGE', flight, first, first + count - 1)) do
    reply[#reply + 1] = {id, string.format('%d', first + i - 1), texts_of(shard .. ':f:' .. id)}
  end
  return reply
end

-- Of entries that are due at the same time, those after the one before the page.
local skip, place = 0, before ~= '' and redis.call('ZSCORE', due, before)
if place and tonumber(place) == tonumber(reverse and greatest or least) then
  if reverse then
    skip = redis.call('ZREVRANK', due, before) - redis.call('ZCOUNT', due, '(' .. place, '+inf') + 1
  else
    skip = redis.call('ZRANK', due, before) - redis.call('ZCOUNT', due, '-inf', '(' .. place) + 1
  end
end
local found = reverse
    and redis.call('ZREVRANGEBYSCORE', due, greatest, least, 'WITHSCORES', 'LIMIT', skip, count)
  or redis.call('ZRANGEBYSCORE', due, least, greatest, 'WITHSCORES', 'LIMIT', skip, count)
for i = 1, #found, 2 do
  reply[#reply + 1] = {found[i], found[i + 1], texts_of(shard .. ':e:' .. found[i])}
end
return reply
