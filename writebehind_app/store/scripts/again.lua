-- Says whether a call was taken whose reply was lost. If not, it will not be taken any more.
--
-- KEYS[1]  the shard
-- ARGV     the sender of the call, the number of the last write that was answered to it or 0, and
--          the deadline in µs: after it, the note of the call may be forgotten
-- Returns  {now, the number of the last write of the call}, {now, 'no'}, {now, 'late'}, or
--          {now, 'lost'}: this Redis lost writes that it had acknowledged
--
-- A sender has one unanswered call to a shard at a time: a number above that is of this call. A
-- number below it proves nothing: an emptied Redis whose clock was put back gives lower numbers
-- again, and a Redis that came back from an older file has the number of an earlier call.
-- A disowned sender has a score that no number reaches; see take.lua and claimed.lua.

local senders = KEYS[1] .. ':senders'
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[3]) then
  return {now, 'late'}
end
local number, answered = tonumber(redis.call('ZSCORE', senders, ARGV[1]) or 0), tonumber(ARGV[2])
if number > answered and number < 2^52 then
  return {now, number}
elseif number > 0 and number < answered then
  return {now, 'lost'}
end
redis.call('ZADD', senders, 2^52 + now, ARGV[1])
return {now, 'no'}
