-- Reads what is pending and what is in flight for some ids, at one moment.
--
-- KEYS[1]  the shard
-- ARGV     ids
-- Returns  {moves, token or '', attempts, {pending entry}, {entry in flight}, {pending entry}, ...}

local shard = KEYS[1]
local state = redis.call('HMGET', shard, 'moves', 'token', 'attempts')
local reply = {tonumber(state[1] or 0), state[2] or '', tonumber(state[3] or 0)}
for _, id in ipairs(ARGV) do
  reply[#reply + 1] = redis.call('HGETALL', shard .. ':e:' .. id)
  reply[#reply + 1] = state[2] and redis.call('HGETALL', shard .. ':f:' .. id) or {}
end
return reply
