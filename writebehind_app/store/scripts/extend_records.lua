-- Adds records to the batch in flight, as extend.lua does entries; it takes no ids.

-- include mine.lua
local log, fresh, reply = shard .. ':log', ARGV[2], {}
local to = string.match(call('HGET', shard, 'to') or '', '^%d+$') or '0'
local before = ARGV[5] ~= '' and string.format('(%.0f-0', ARGV[5]) or '-'
local after, count, bytes = '(' .. to .. '-18446744073709551615', 1, 0
while count > 0 do -- one at first, which tells how long the others may be, as in claim_records.lua
  local found = call('XRANGE', log, after, before, 'COUNT', count)
  for _, record in ipairs(found) do
    reply[#reply + 1], after = record, '(' .. record[1]
    bytes = bytes + #table.concat(record[2])
  end
  local fit = math.ceil((4000000 - bytes) * #reply / (bytes + 1))
  count = #found == count and math.min(fit, ARGV[4] - #reply, 20 * #reply) or 0
end
if fresh ~= '' then
  call('HDEL', shard, 'retry_at') -- first, as in flight.lua
  call('HSET', shard, 'token', fresh, 'guard', fresh, 'lease', now + ARGV[3])
  if reply[1] then
    call('HSET', shard, 'to', string.match(reply[#reply][1], '%d+'))
    call('HINCRBY', shard, 'flying', #reply)
  end
  return {0, reply}
end
return reply
