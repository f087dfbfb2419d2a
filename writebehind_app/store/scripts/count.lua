-- Says how many entries there are.
--
-- KEYS[1]  the shard
-- ARGV     names of fields of its state, or nothing
-- Returns  {pending, in flight, how many of the pending ones are due}, and where there are names
--          also, {since when the first entry waits, or '', now, {value of the state, ...}}

local shard = KEYS[1]
local log, due = shard .. ':log', shard .. ':due'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function counts()
  local pending, in_flight, waiting = redis.call('ZCARD', due),
    redis.call('LLEN', shard .. ':flight'), redis.call('ZCOUNT', due, '-inf', now)
  if redis.call('EXISTS', log) == 0 then
    return {pending, in_flight, waiting}
  end

  local state = redis.call('HMGET', shard, 'flying', 'to', 'no', 'max_age', 'quiet')
  local length = redis.call('XLEN', log)
  local flying = state[2] and math.max(0, math.min(tonumber(state[1]) or 0, length)) or 0
  local unclaimed = length - flying
  local oldest = redis.call('XRANGE', log, state[2] and '(' .. state[2] or '-', '+', 'COUNT', 1)[1]
  -- As in claim.lua.
  local no, newest, max_age, quiet = oldest and tonumber(string.match(oldest[1], '%d+')),
    tonumber(state[3]) or 0, tonumber(state[4]) or 0, tonumber(state[5]) or 0
  local is_due = oldest
    and (no + max_age <= now or (quiet > 0 and newest + quiet <= now) or no > newest)
  return {pending + unclaimed, in_flight + flying, waiting + (is_due and unclaimed or 0)}
end

local found = counts()
if #ARGV > 0 then
  local claimed, first = redis.call('LINDEX', shard .. ':flight', 0), redis.call('ZRANGE', due, 0, 0)[1]
  local entry = claimed and ':f:' .. claimed or ':e:' .. (first or '')
  local head = redis.pcall('HGET', shard .. entry, '@')
  local record = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  found[4] = record and string.match(record[1], '^%d+')
    or type(head) == 'string' and string.match(head, '^%d+ %d+ (%d+)') or ''
  found[5] = string.format('%.0f', now)
  found[6] = redis.call('HMGET', shard, unpack(ARGV))
end
return found
