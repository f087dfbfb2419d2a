-- Throws records of a log away, as discard.lua does entries. An id is a unique id, or '#number'.

-- include discards.lua
-- include free.lua

local log, most = shard .. ':log', tonumber(ARGV[1])
local to = tonumber(string.match(state[3] or '', '^%d+$'))
local after = to and not is_idle and '(' .. state[3] or '-' -- what is in work is before it
local records = {}
if not ARGV[4] then
  records = call('XRANGE', log, after, '+', 'COUNT', most)
end
for i = 4, #ARGV do
  local number = string.match(ARGV[i], '^#(%d+)$') or call('HGET', place(ARGV[i]))
  if number and (after == '-' or tonumber(number) > to) then
    records[#records + 1] = call('XRANGE', log, number, number)[1]
  end
end
for _, record in ipairs(records) do
  local number = free(record, state[4])
  call('XDEL', log, record[1])
  if to and tonumber(number) <= to then
    call('HINCRBY', shard, 'flying', -1)
  end
  discarded(number, number .. ' ')
end
if is_idle and (tonumber(call('HGET', shard, 'flying')) or 0) <= 0 then
  call('HDEL', shard, 'token', 'lease', 'attempts', 'retry_at', 'error', 'claimed', 'to', 'flying')
end
-- include discards_end.lua
