-- Reads what is pending and what is in flight for some ids, at one moment.
--
-- KEYS[1]  the shard
-- ARGV     a random text or '': the guard of a shard that has none; then ids
-- Returns  {guard, token, attempts, the token of the last ack, {pending}, {in flight}, {pending}, ...};
--          '' for what is not there
--
-- A Redis that lost everything has another guard: that is what the random text is for.

local shard = KEYS[1]
if ARGV[1] ~= '' then
  redis.call('HSETNX', shard, 'guard', ARGV[1])
end
local state = redis.call('HMGET', shard, 'guard', 'token', 'attempts', 'acked')
local reply = {state[1] or '', state[2] or '', tonumber(state[3]) or 0, state[4] or ''}
-- include texts.lua
for i = 2, #ARGV do
  reply[#reply + 1] = texts_of(shard .. ':e:' .. ARGV[i])
  reply[#reply + 1] = state[2] and texts_of(shard .. ':f:' .. ARGV[i]) or {}
end
return reply
