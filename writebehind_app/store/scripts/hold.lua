-- Takes a place for a time, or takes it for longer, unless somebody else has it; or gives it up.
--
-- KEYS[1]  the place
-- ARGV     the token of who asks, for how many ms, or 0 to give it up
-- Returns  1, or 0 where somebody else has it

local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
