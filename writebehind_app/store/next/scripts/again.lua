-- Asks whether a call was taken whose reply was lost; if it was not, it will not be any more.
--
-- KEYS[1]  the shard
-- ARGV     the sender of the call, the number of the last write that was answered to it or 0, and
--          the deadline µs: later, the note of the call may be forgotten
-- Returns  {now, the number of the last write of the call}, {now, 'no'}, or {now, 'late'}
--
-- A sender has one call to a shard unanswered at a time: a number above that is one of the call.
-- Who is disowned has a score that no number reaches; see take.lua and claimed.lua.

local senders = KEYS[1] .. ':senders'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[3]) then
  return {now, 'late'}
end
local number = tonumber(redis.call('ZSCORE', senders, ARGV[1]) or 0)
if number > tonumber(ARGV[2]) and number < 2^52 then
  return {now, number}
end
redis.call('ZADD', senders, 2^52 + now, ARGV[1])
return {now, 'no'}
