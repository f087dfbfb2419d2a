-- Handles a name that is neither a field nor a meta key; see operate.lua.
if not mark then
  for _, other in ipairs(redis.pcall('HKEYS', entry)) do
    if other ~= '#' and string.byte(other) ~= 42 then -- nor that an idempotency key was used
      call('HDEL', entry, other)
    end
  end
  fields[1], name = '!', nil -- in place of '@'
  call('HSET', shard, 'deletes', number)
elseif mark == 33 then -- !
  text = number
elseif mark == 35 then -- #
  local found = redis.pcall('HMGET', entry, name, '!' .. string.sub(name, 2))
  local is_first = (tonumber(found[1] or 0) or 0) <= (tonumber(found[2] or 0) or 0)
  text = is_first and number or found[1]
elseif mark == 38 then -- &
  text = number .. text
elseif mark == 42 then -- *
  call('SET', shard .. ':once:' .. string.sub(name, 2), number, 'PX', text)
  text = number
else
  name = nil
end
