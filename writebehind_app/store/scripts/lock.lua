-- Takes or keeps a lock for a time, unless somebody else holds it. Or releases it.
--
-- KEYS[1]  the lock
-- ARGV     the token of the caller; for how many ms, or 0 to release it
-- Returns  1; or 0 if somebody else holds it

local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1]) -- first, as in flight.lua
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
