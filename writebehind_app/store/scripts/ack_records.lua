-- Drops the batch in flight: the database has it. As in ack.lua.

-- include mine.lua
-- include free.lua
local log, state = shard .. ':log', call('HMGET', shard, 'to', 'unique', 'last')
local to = string.match(state[1] or '', '^%d+$') or '0'
local records = call('XRANGE', log, '-', to)
for _, record in ipairs(records) do
  free(record, state[2]) -- the row has the id from now on
end
call('XTRIM', log, 'MINID', to .. '-18446744073709551615')
call('XDEL', log, to .. '-18446744073709551615')
if tonumber(to) > (tonumber(state[3]) or 0) and call('XLEN', log) == 0 then
  call('DEL', log) -- no append could follow a number that none of them gave
end
local flushed = #records
-- include acked.lua
