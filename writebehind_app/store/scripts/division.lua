-- Says which division of a buffer is in force. If there is none yet, this makes one, or only says
-- which one it would make.
--
-- KEYS[1]  the buffer
-- ARGV     how many shards a first division has; how many µs a change may take; whether to write: '' or '1'
-- Returns  {shards, number, the token of the change that is under way or ''}; then why there is none
--
-- If Redis takes no writes, there is no division, and so no shard may be opened.
-- A change that takes longer is over: its process died, or is too slow.

local buffer, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local state = redis.call('HMGET', buffer, 'shards', 'number', 'change', 'since')
if not (tonumber(state[1]) and tonumber(state[2])) then
  if ARGV[3] == '' then
    return {tonumber(ARGV[1]), 0, '', 'nobody has written yet'}
  end
  local made = redis.pcall('HSET', buffer, 'shards', ARGV[1], 'number', 0)
  if type(made) == 'table' then
    return {tonumber(ARGV[1]), 0, '', made.err}
  end
  state = {ARGV[1], 0, state[3], state[4]}
end
if state[3] and math.abs(now - (tonumber(state[4]) or 0)) > tonumber(ARGV[2]) then
  if ARGV[3] ~= '' then
    redis.call('HDEL', buffer, 'change', 'since')
  end
  state[3] = false
end
return {tonumber(state[1]), tonumber(state[2]), state[3] or ''}
