-- Reads a page of entries from the index, in the order of their places. The place of a pending entry
-- is the time at which it is due, in µs; that of an entry in flight is its index in the batch; and
-- that of a record of a log, in flight or not, is its number.
--
-- KEYS[1]  the shard
-- ARGV     'pending' or 'in_flight', how many at most, '1' for the last ones first, the least and
--          the greatest place as ZRANGE takes them, and the id of the entry before the page, or '';
--          then what the ids of entries begin with, or '', and how many are looked at for it
-- Returns  {attempts, error, stopped, {id, place, {name, text, ...}}, ...}; the first two are of the
--          batch; stopped is {id, place} of the last entry that was looked at, if there may be more
--          of that beginning; and of a text that nobody reads in a list there is no more than that
--          it is long

local shard, which, count, reverse = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local least, greatest, before = ARGV[4], ARGV[5], ARGV[6]
local beginning, most = ARGV[7], tonumber(ARGV[8])
local due, flight, log = shard .. ':due', shard .. ':flight', shard .. ':log'

local state = redis.call('HMGET', shard, 'attempts', 'error', 'to')
local reply = {tonumber(state[1]) or 0, state[2] or '', {}}
local function is_full()
  return #reply - 3 >= count
end
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
local function is_wanted(id)
  return string.sub(id, 1, #beginning) == beginning
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
  local last = beginning == '' and first + count - 1 or -1
  for i, id in ipairs(redis.call('LRANGE', flight, first, last)) do
    if is_wanted(id) and not is_full() then
      reply[#reply + 1] = {id, string.format('%d', first + i - 1), texts_of(shard .. ':f:' .. id)}
    end
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
local chunk = beginning == '' and count or 1000
local seen, looked = '', 0
while first <= last and not is_full() and (looked == 0 or looked + chunk <= most) do
  local stop = math.min(first + chunk - 1, last)
  local found = reverse and redis.call('ZREVRANGE', due, first, stop)
    or redis.call('ZRANGE', due, first, stop)
  for _, id in ipairs(found) do
    if is_wanted(id) and not is_full() then
      reply[#reply + 1] = {id, redis.call('ZSCORE', due, id), texts_of(shard .. ':e:' .. id)}
    end
  end
  first, looked, seen = stop + 1, looked + chunk, found[#found]
end
if first <= last and not is_full() then
  reply[3] = {seen, redis.call('ZSCORE', due, seen)}
end
return reply
