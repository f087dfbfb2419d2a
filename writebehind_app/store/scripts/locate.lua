-- Says where the write of a receipt is.
--
-- KEYS[1]  the shard
-- ARGV     id, or '' for a record of a log, and the number of the entry
-- Returns  'pending', 'in_flight', 'gone' (flushed), 'discarded', or 'lost' (Redis lost it, or
--          does not know any more)

local shard, id, no = KEYS[1], ARGV[1], ARGV[2]
local function is_at(entry)
  local head = redis.pcall('HGET', entry, '@')
  return type(head) == 'string' and string.match(head, '%d+') == no
end

if id == '' and redis.call('XRANGE', shard .. ':log', no, no)[1] then
  local to = redis.call('HGET', shard, 'to')
  return to and tonumber(no) <= (tonumber(to) or 0) and 'in_flight' or 'pending'
end
if is_at(shard .. ':e:' .. id) then
  return 'pending'
end
if is_at(shard .. ':f:' .. id) then
  return 'in_flight'
end
if redis.call('ZSCORE', shard .. ':discarded', no) then
  return 'discarded'
end
local state = redis.call('HMGET', shard, 'first', 'no', 'forgot')
local first, last = tonumber(state[1]), tonumber(state[2])
if not first or not last or tonumber(no) <= first or tonumber(no) > last
  or tonumber(no) <= (tonumber(state[3]) or 0) then
  return 'lost'
end
return 'gone'
