-- Appends records to a log: all of them, or none.
--
-- KEYS[1]  the shard
-- ARGV     as in delivery.lua; then what the shard must look like or '', max_age µs, quiet µs, how
--          many fields make up a unique id, then for each record: its unique id or '', its time in
--          µs or '' where it is the time of the append, how many names and texts there are, name,
--          text, name, text, ...
-- Returns  as delivery.lua: the number of the first, which the others follow; or
--          'moved', what the shard looks like  records have left it: some may be stored by now
--          'taken', n                          the nth has the unique id of a pending record
--
-- A record is an entry of the stream ':log', whose id is '<number>-0'. The unique fields come
-- first, so that a record's unique id can be told from it. Which ids are in use is kept by their
-- digests, in many small hashes: small ones take a third of the memory.

local log, times = shard .. ':log', shard .. ':times'

-- The hash, and the field of it, that hold the number of the record with a unique id.
local function place(id)
  local digest = redis.sha1hex(id)
  return shard .. ':taken:' .. string.sub(digest, 1, 3), string.sub(digest, 4, 24)
end

local state = redis.call('HMGET', shard, 'first', 'moves', 'no')
local guard = string.format('%.0f %.0f', number(state[1]), number(state[2]))
if ARGV[2] ~= '' and ARGV[2] ~= guard then
  return refused('moved', guard)
end

local records, i = {}, 6 -- where in ARGV each record begins
while i <= #ARGV do
  records[#records + 1] = i
  if ARGV[i] ~= '' and redis.call('HEXISTS', place(ARGV[i])) == 1 then
    return refused('taken', #records)
  end
  i = i + 3 + ARGV[i + 2]
end
if is_full(redis.call('XLEN', log), #records) then
  return refused('full')
end

-- What may fail, as somebody else has written to the shard, comes before what takes a record.
redis.call('HINCRBY', shard, 'accepted', #records)

-- A number is the time of the append in µs, or the next one that is free. 'first' as in write.lua.
local no = math.max(tonumber(now), number(state[3]) + 1)
redis.call('HSETNX', shard, 'first', no - 1)
redis.call('HSET', shard, 'no', no + #records - 1, 'max_age', ARGV[3], 'quiet', ARGV[4],
  'unique', ARGV[5])
for n, at in ipairs(records) do
  local id = string.format('%.0f', no + n - 1)
  if ARGV[at + 1] ~= '' then
    redis.call('ZADD', times, ARGV[at + 1], id)
  end
  redis.call('XADD', log, id .. '-0', unpack(ARGV, at + 3, at + 2 + ARGV[at + 2]))
  if ARGV[at] ~= '' then
    local hash, field = place(ARGV[at])
    redis.call('HSET', hash, field, id)
  end
end
return done(string.format('%.0f', no))
