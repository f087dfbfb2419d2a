-- Counts the records, as count.lua does entries.

local shard, log = KEYS[1], KEYS[1] .. ':log'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', shard, 'flying', 'to', 'last', 'max_age', 'quiet')
local function number(text)
  return tonumber(text or 0) or 0
end
local to = string.match(state[2] or '', '^%d+$')
local length = redis.call('XLEN', log)
local flying = to and math.max(0, math.min(number(state[1]), length)) or 0
local function first(from)
  local found = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
  return found and string.match(found[1], '^%d+')
end
local oldest, max_age, quiet = tonumber(first(to and '(' .. to or '-')), number(state[4]), number(state[5])
-- As in claim_records.lua.
local is_due = oldest and (math.abs(now - oldest) >= max_age or oldest > number(state[3])
  or quiet > 0 and number(state[3]) + quiet <= now)
return {
  length - flying, flying, is_due and length - flying or 0, first('-') or '', now,
  redis.call('HMGET', shard, 'paused', unpack(ARGV)),
}
