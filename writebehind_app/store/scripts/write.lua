-- Takes one write of one row into the row's pending entry.
--
-- KEYS[1]  the shard
-- ARGV     id, max_age µs, quiet µs, '1' for a delete or '', then name, text, name, text, ...
-- Returns  the number of the entry that now holds the write
--
-- The pending entry is a hash. Its field '@' is 'no writes since at row': the number that names
-- the entry within the shard, how many writes are in it, the times of the first and the last of
-- them, and what becomes of the row: 1, it stays, or comes to be; 2, it goes; or a time: it goes,
-- and at that time a new one came. Every other name is a field of the row.

local shard, id = KEYS[1], ARGV[1]
local entry, due = shard .. ':e:' .. id, shard .. ':due'
local max_age, quiet = tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])

local no, writes, since, row
local pending = redis.call('HGET', entry, '@')
if pending then
  no, writes, since, row = string.match(pending, '(%d+) (%d+) (%d+) %d+ (%d+)')
else
  -- Numbers start at the clock, not at one: a receipt from before Redis lost everything then lies
  -- below 'first' and is not taken for a flushed one.
  if redis.call('HSETNX', shard, 'no', now) == 1 then
    redis.call('HSET', shard, 'first', now)
  end
  no = string.format('%.0f', redis.call('HINCRBY', shard, 'no', 1))
  writes, since, row = 0, now, '1'
end

if ARGV[4] == '1' then
  -- Nothing that was written before a delete matters after it.
  redis.call('DEL', entry)
  row = '2'
elseif row == '2' then
  row = now
end
local head = table.concat({no, string.format('%.0f', writes + 1), since, now, row}, ' ')
redis.call('HSET', entry, '@', head, unpack(ARGV, 5))

if quiet > 0 then
  redis.call('ZADD', due, math.min(tonumber(since) + max_age, tonumber(now) + quiet), id)
elseif not pending then
  redis.call('ZADD', due, tonumber(now) + max_age, id)
end
redis.call('HINCRBY', shard, 'accepted', 1)
return tonumber(no)
