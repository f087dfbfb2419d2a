-- The end of each locate: the write is neither pending nor in flight.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', shard .. ':discarded', number, '+inf')) do
  local first, its_id = string.match(name, '^(%d+) (.*)$')
  if its_id == id and tonumber(first) <= number then
    return 'discarded'
  end
end
local state = redis.call('HMGET', shard, 'first', 'last', 'forgot')
local first, last = tonumber(state[1] or nil), tonumber(state[2] or nil)
if first and last and first < number and number <= last and number > (tonumber(state[3] or 0) or 0) then
  return 'stored'
end
return 'lost'
