-- Reads what is pending and in flight for some ids, at one moment.
--
-- KEYS[1]  the shard
-- ARGV     a random text or '': the guard of a shard that has none; what bases begin with, or '' to
--          read no bases; a new lease or ''; for how many µs bases are kept; how many bytes they may
--          take; then ids
-- Returns  {guard, token, attempts, the token of the last ack, the number of the last batch, why the
--           shard is not open, {pending}, {in flight}, base, {pending}, ...}; '' for what is not
--           there. The lease is in place of a base if the reader has it now; for a guard, the marks
--           of the row
--
-- The random text is for a Redis that lost everything: it has another guard then.

local shard, prefix, lease = KEYS[1], ARGV[2], ARGV[3]
if ARGV[1] ~= '' and not string.find(redis.call('HGET', shard, 'guard') or '', '^[%w_-]+$') then
  redis.call('HSET', shard, 'guard', ARGV[1]) -- also in place of one that no caller can give back
end
local state = redis.call('HMGET', shard, 'guard', 'token', 'attempts', 'acked', 'batch', 'open')
local reply = {state[1] or '', state[2] or '', tonumber(state[3]) or 0, state[4] or '',
  tonumber(state[5]) or 0, state[6] == '1' and '' or state[6] or '?'}
-- include texts.lua
-- include based.lua
for i = 6, #ARGV do
  local id, at = ARGV[i], #reply
  reply[at + 1] = texts_of(shard .. ':e:' .. id)
  reply[at + 2] = state[2] and texts_of(shard .. ':f:' .. id) or {}
  reply[at + 3] = prefix ~= '' and base_of(id, reply[at + 2][1]) or ARGV[1] ~= '' and marks_of(id) or ''
end
return reply
