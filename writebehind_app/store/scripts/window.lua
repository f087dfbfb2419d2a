-- Reads a page of the records of a log, in flight or pending, whose times may lie in a window.
--
-- KEYS[1]  the shard
-- ARGV     how many records, and after how many bytes no more; the first number, or '' for none,
--          and the last; then 'times' and the first and the last of times that were given, or
--          'numbers' and those of more records
-- Returns  {the first number of the next page, or '', {more numbers that are left},
--          {{id, {name, text, ...}}, ...}, why the shard is not open or ''}; some records have another
--          time and are not in the window, and some may be there twice

local log, most, most_bytes = KEYS[1] .. ':log', tonumber(ARGV[1]), tonumber(ARGV[2])
local first, last, numbers = ARGV[3], ARGV[4], {}
if ARGV[5] == 'times' then
  numbers = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':times', ARGV[6], ARGV[7])
else
  for i = 6, #ARGV do
    numbers[i - 5] = ARGV[i]
  end
end
for i = #numbers, 1, -1 do
  if not string.find(numbers[i], '^%d+$') or #numbers[i] > 18 then -- somebody else's
    table.remove(numbers, i)
  end
end

local records, bytes = {}, 0
local function is_full()
  return #records >= most or bytes >= most_bytes
end
local function read(from, to, count)
  local found = redis.call('XRANGE', log, from, to, 'COUNT', count)
  for _, record in ipairs(found) do
    records[#records + 1] = record
    for _, text in ipairs(record[2]) do
      bytes = bytes + #text
    end
  end
  return found
end

-- A few at first, which tell how long the others may be.
while first ~= '' and not is_full() do
  local fit = #records == 0 and 20 or math.ceil((most_bytes - bytes) * #records / (bytes + 1))
  local count = math.min(fit, most - #records, math.max(20, 20 * #records))
  local found = read(first, last, count)
  first = #found == count and '(' .. found[count][1] or ''
end
local n = 1
while first == '' and numbers[n] and not is_full() do
  read(numbers[n], numbers[n], 1)
  n = n + 1
end
local left = {}
for i = n, #numbers do
  left[#left + 1] = numbers[i]
end
local open = redis.call('HGET', KEYS[1], 'open')
return {first, left, records, open == '1' and '' or open or '?'}
