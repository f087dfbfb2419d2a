-- The base of a row. If there is none, the lease for one, if the reader may make it.
local function marks_of(id) -- of writes past Redis that are under way
  local time = redis.call('TIME')
  local found = redis.pcall('ZRANGEBYSCORE', shard .. ':m:' .. id, time[1] * 1000000 + time[2], '+inf')
  return found.err and {} or found
end
local function base_of(id, is_in_flight)
  local found = redis.pcall('GET', shard .. ':b:' .. id)
  found = type(found) == 'string' and found or ''
  if string.sub(found, 1, #prefix) == prefix then
    return found
  elseif lease == '' or is_in_flight or marks_of(id)[1]
    or found ~= lease and string.sub(found, 1, 1) == '?' then
    return ''
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- include keeping.lua
  return pcall(keep, id, lease, tonumber(ARGV[4]), tonumber(ARGV[4]), tonumber(ARGV[5])) and lease or ''
end
