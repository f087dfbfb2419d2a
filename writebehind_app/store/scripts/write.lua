-- Takes one write of one row into the row's pending entry.
--
-- KEYS[1]  the shard
-- ARGV     id, max_age µs, quiet µs, '1' for a delete or '', then name, text, name, text, ...
-- Returns  the number of the entry that now holds the write
--
-- The pending entry is a hash. '@no' numbers it within the shard, '@n' counts the writes in it,
-- '@since' and '@at' are the times of the first and the last of them; '@delete' says that the row
-- goes: 1, for good; 2, before a new one with these fields comes. Every other name is a field.

local shard, id = KEYS[1], ARGV[1]
local entry, due = shard .. ':e:' .. id, shard .. ':due'
local max_age, quiet = tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local pending = redis.call('HMGET', entry, '@no', '@n', '@since', '@delete')
local no, writes, since = pending[1], pending[2], pending[3]

if not no then
  -- Numbers start at the clock, not at one: a receipt from before Redis lost everything then lies
  -- below '@first' and is not taken for a flushed one.
  if redis.call('HSETNX', shard, 'no', now) == 1 then
    redis.call('HSET', shard, 'first', now)
  end
  no, writes, since = redis.call('HINCRBY', shard, 'no', 1), 0, now
  redis.call('HSET', entry, '@no', no, '@since', now)
end

if ARGV[4] == '1' then
  -- Nothing that was written before a delete matters after it.
  redis.call('DEL', entry)
  redis.call('HSET', entry, '@no', no, '@since', since, '@n', writes + 1, '@at', now, '@delete', 1)
else
  redis.call('HSET', entry, '@n', writes + 1, '@at', now, unpack(ARGV, 5))
  if pending[4] == '1' then
    redis.call('HSET', entry, '@delete', 2)
  end
end

if quiet > 0 then
  redis.call('ZADD', due, math.min(tonumber(since) + max_age, now + quiet), id)
elseif writes == 0 then
  redis.call('ZADD', due, now + max_age, id)
end
redis.call('HINCRBY', shard, 'accepted', 1)
return tonumber(no)
