-- Reads the records of a log, in flight or pending, whose times may lie in a window.
--
-- KEYS[1]  the shard
-- ARGV     the first and the last number, how many of these at most, then the first and the last
--          of times that were given; without, none is looked for by such a time
-- Returns  {where to go on in place of the first number, or '', {id, {name, text, ...}}, ...};
--          some are not in the window, as the time they were given is another, and some are there
--          twice

local shard = KEYS[1]
local log = shard .. ':log'
local reply = {''}
for _, record in ipairs(redis.call('XRANGE', log, ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  reply[#reply + 1] = record
end
if #reply > tonumber(ARGV[3]) then
  reply[1] = '(' .. reply[#reply][1]
end
if ARGV[4] then
  for _, no in ipairs(redis.call('ZRANGEBYSCORE', shard .. ':times', ARGV[4], ARGV[5])) do
    reply[#reply + 1] = redis.call('XRANGE', log, no, no)[1]
  end
end
return reply
