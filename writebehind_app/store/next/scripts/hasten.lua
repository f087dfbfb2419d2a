-- Makes a pending entry due at once, and says whether somebody is to be told.
--
-- KEYS[1]  the shard
-- ARGV     id, for how many ms nobody is told again of this id
-- Returns  1 where somebody is to be told, 0 where one was told a moment ago, or nothing is pending

local shard, id = KEYS[1], ARGV[1]
if not redis.call('ZSCORE', shard .. ':due', id) then
  return 0
end
local time = redis.call('TIME')
redis.call('ZADD', shard .. ':due', 'LT', time[1] * 1000000 + time[2], id)
local told = shard .. ':told:' .. redis.sha1hex(id)
return redis.call('SET', told, '', 'NX', 'PX', ARGV[2]) and 1 or 0
