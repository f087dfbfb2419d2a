-- Drops the batch in flight: the database has it. Rows that were written, dead letters, and the µs
-- that it took, are counted.

-- include mine.lua
local ids = call('LRANGE', shard .. ':flight', 0, -1)
for _, id in ipairs(ids) do
  call('UNLINK', shard .. ':f:' .. id)
end
call('DEL', shard .. ':flight')
local flushed = #ids
-- include acked.lua
