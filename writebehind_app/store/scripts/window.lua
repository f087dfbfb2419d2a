-- Reads the records of a log, in flight or pending, whose times may lie in a window.
--
-- KEYS[1]  the shard
-- ARGV     the first and the last number, the first and the last time
-- Returns  {{id, {name, text, ...}}, ...}; among those with a number in the window may be some
--          whose time was given and is another; a record may be there twice

local shard = KEYS[1]
local log = shard .. ':log'
local records = redis.call('XRANGE', log, ARGV[1], ARGV[2])
for _, no in ipairs(redis.call('ZRANGEBYSCORE', shard .. ':times', ARGV[3], ARGV[4])) do
  records[#records + 1] = redis.call('XRANGE', log, no, no)[1]
end
return records
