-- Stores `fields` (names and texts, `size` in all) in the pending entry of an id.
if is_new[n] then
  fields[size + 1], fields[size + 2], size = '#', number, size + 2
end
local added = 0
for i = 1, size, 1000 do -- Lua unpacks a few thousand at most
  local reply = redis.pcall('HSET', entry, unpack(fields, i, i + 999 < size and i + 999 or size))
  if type(reply) == 'table' then -- no hash: somebody else wrote it
    call('RENAME', entry, shard .. ':aside:' .. ARGV[at])
    reply = call('HSET', entry, '#', number, unpack(fields, i, math.min(i + 999, size)))
  end
  added = added + reply
end
if added == size / 2 and not is_new[n] then -- after a delete: see operate.lua
  call('HSETNX', entry, '#', number) -- or after somebody else took the entry out of Redis
  if fields[1] == '@' then
    call('HSET', entry, '^', number)
  end
end
if quiet > 0 and call('ZSCORE', due, ARGV[at]) ~= '1' then -- what hasten.lua made due stays so
  local since = tonumber(call('HGET', entry, '#')) or now
  local from = since > 0 and math.min(since + max_age, now + quiet) or now -- 'nan' is a number to Lua
  call('ZADD', due, 'XX', from, ARGV[at])
end
