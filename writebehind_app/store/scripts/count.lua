-- Counts the entries.
--
-- KEYS[1]  the shard
-- ARGV     names of its state
-- Returns  {pending, in flight, due, since when the oldest one waits or '', now, {value, ...}}
--
-- The oldest is the first of the batch, or the oldest of those that are due first, also after
-- hasten.lua. With `quiet`, an entry that is due later may be older by max_age.

local call, shard, due = redis.call, KEYS[1], KEYS[1] .. ':due'
local time = call('TIME')
local now, since, least = time[1] * 1000000 + time[2], '', math.huge
local function look(kind, id)
  local found = id and redis.pcall('HGET', shard .. kind .. id, '#')
  local number = type(found) == 'string' and tonumber(found)
  if number and number < least then
    since, least = found, number
  end
end
look(':f:', call('LINDEX', shard .. ':flight', 0))
look(':e:', call('ZRANGE', due, 0, 0)[1])
look(':e:', call('ZRANGEBYSCORE', due, '(1', '+inf', 'LIMIT', 0, 1)[1]) -- see hasten.lua
return {
  call('ZCARD', due), call('LLEN', shard .. ':flight'), call('ZCOUNT', due, '-inf', now), since, now,
  call('HMGET', shard, 'paused', unpack(ARGV)),
}
