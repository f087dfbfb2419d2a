-- Makes a pending entry due at once, and says whether to tell somebody.
--
-- KEYS[1]  the shard
-- ARGV     id, for how many ms nobody is told again of this id
-- Returns  1 to tell somebody; 0 if somebody was told a moment ago, or nothing is pending

local shard, id = KEYS[1], ARGV[1]
if not redis.call('ZSCORE', shard .. ':due', id) then
  return 0
end
redis.call('ZADD', shard .. ':due', 1, id) -- see chosen.lua
local told = shard .. ':told:' .. redis.sha1hex(id)
local is_first = redis.call('SET', told, '', 'NX', 'PX', ARGV[2])
return is_first and 1 or 0
