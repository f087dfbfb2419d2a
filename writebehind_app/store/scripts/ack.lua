-- Drops the batch in flight: the database has it. Counts rows, dead letters and µs. Overwrites the
-- bases of its rows with what is stored now, or drops them.
--
-- ARGV     the token, rows, dead letters, µs; for how many µs bases are kept, how many bytes they may
--          take; then id, base, ...

-- include mine.lua
local ids = call('LRANGE', shard .. ':flight', 0, -1)
-- include keeping.lua
local bases, whole = {}, tonumber(ARGV[5]) or 0
for i = 7, #ARGV, 2 do
  bases[ARGV[i]] = ARGV[i + 1]
end
local left = math.min(whole, whole + (tonumber(call('HGET', shard, 'batch')) or 0) - now) -- from its claim on
for _, id in ipairs(ids) do
  local base = shard .. ':b:' .. id
  local head = bases[id] and redis.pcall('GETRANGE', base, 0, 0)
  call('UNLINK', shard .. ':f:' .. id, base)
  if type(head) == 'string' and string.find(head, '[^?]') and left > 0 then
    keep(id, bases[id], left, whole, tonumber(ARGV[6]))
  end
end
local flushed = #ids
-- include acked.lua
