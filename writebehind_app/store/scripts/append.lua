-- Appends records to a log: all or none.
--
-- KEYS[1]  the shard
-- ARGV     as in call.lua; then the guard or '', how many fields make up a unique id, an idempotency
--          key or '', for how many ms it is kept; then for each record: its unique id or '', its time
--          in µs or '' where it is the time of the append, how many names there are, name, text, ...
-- Returns  {now, the number of the first record}; the others have the next numbers. Or {now, why
--          not}: 'late', 'full', 'moved', guard (some may be rows by now), 'taken', n (the nth has
--          the unique id of another record), 'known', number (of that key)
--
-- A record is an entry of the stream ':log', whose id is '<number>-0'.

-- include call.lua
-- include place.lua

local log, due, new, refusal = shard .. ':log', '', {}, nil
local records, at, once = {}, 11, shard .. ':once:' .. ARGV[9]
local guard, known = call('HGET', shard, 'guard') or '', ARGV[9] ~= '' and redis.pcall('GET', once)
if ARGV[7] ~= '' and not string.find(guard, '^[%w_-]+$') then
  guard = string.format('%s-%.0f', ARGV[1], now) -- an epoch, as read.lua leaves one
  call('HSET', shard, 'guard', guard)
end
if type(known) == 'string' then
  refusal = {now, 'known', tonumber(known) or 0}
elseif ARGV[7] ~= '' and ARGV[7] ~= guard then
  refusal = {now, 'moved', guard}
end
while ARGV[at] do
  records[#records + 1] = at
  if not refusal and ARGV[at] ~= '' and call('HEXISTS', place(ARGV[at])) == 1 then
    refusal = {now, 'taken', #records}
  end
  at = at + 3 + 2 * ARGV[at + 2]
end
local count = #records
if not refusal and ARGV[3] ~= '-' and call('XLEN', log) + count > tonumber(ARGV[3]) then
  refusal = {now, 'full'}
end

-- include take.lua

call('HSET', shard, 'max_age', ARGV[5], 'quiet', ARGV[6], 'unique', ARGV[8])
for n, at in ipairs(records) do
  local id = string.format('%.0f', first + n - 1)
  if ARGV[at + 1] ~= '' then
    call('ZADD', shard .. ':times', ARGV[at + 1], id)
  end
  call('XADD', log, id .. '-0', unpack(ARGV, at + 3, at + 2 + 2 * ARGV[at + 2]))
  if ARGV[at] ~= '' then
    local hash, field = place(ARGV[at])
    call('HSET', hash, field, id)
  end
end
if ARGV[9] ~= '' then
  call('SET', once, string.format('%.0f', first), 'PX', ARGV[10])
end
return {now, first}
