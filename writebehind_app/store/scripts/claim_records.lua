-- Makes records of a log the batch in flight, or takes over the one that a dead flusher left.
--
-- KEYS[1]  the shard
-- ARGV     as in flight.lua
-- Returns  as flight.lua
--
-- A log is frozen up to the record 'to': later records come after it. All of a log is due when its
-- oldest record is max_age old, or its newest is quiet old.

-- include flight.lua

local log, newest = shard .. ':log', tonumber(state[8]) or 0
local function number_of(record)
  return tonumber(string.match(record[1], '%d+'))
end
local function record_of(found) -- one of a number that no append has given is somebody else's
  if number_of(found) > newest then
    return {found[1], {'@', 'a number to come', unpack(found[2], 1, math.min(#found[2], 1000))}}
  end
  return found
end

local own = call('HMGET', shard, 'to', 'quiet')
if token then
  for _, record in ipairs(own[1] and call('XRANGE', log, '-', own[1]) or {}) do
    reply[#reply + 1] = record_of(record)
  end
  call('HSET', shard, 'lease', now + lease)
  return reply
end
local oldest, quiet = call('XRANGE', log, '-', '+', 'COUNT', 1)[1], tonumber(own[2]) or 0
local waited = oldest and now - number_of(oldest)
-- One from ahead of the clock is not due for long, and is taken at once.
if not oldest or which ~= 'all' and waited < tonumber(max_age) and -waited <= tonumber(max_age)
  and (quiet == 0 or newest + quiet > now) and number_of(oldest) <= newest then
  return {'empty'}
end
local after, count, bytes, taken = '-', 1, 0, 0
while count > 0 do -- one at first, which tells how long the others may be
  local found = call('XRANGE', log, after, '+', 'COUNT', count)
  for _, record in ipairs(found) do
    reply[#reply + 1], after = record_of(record), '(' .. record[1]
    bytes = bytes + #table.concat(record[2])
  end
  taken = taken + #found
  local fit = math.ceil((most_bytes - bytes) * taken / (bytes + 1))
  count = #found == count and math.min(fit, size - taken, 20 * taken) or 0
end
call('HSET', shard, 'to', string.match(reply[#reply][1], '%d+'), 'flying', taken)
-- include claimed.lua
return reply
