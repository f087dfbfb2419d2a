-- Frees the unique id of a record, and forgets its time. The record begins with the fields of the id.
-- include place.lua
local function free(record, unique)
  local number, texts = string.match(record[1], '%d+'), {}
  call('ZREM', shard .. ':times', number)
  for i = 1, math.min(tonumber(unique) or 0, #record[2] / 2) do
    texts[i] = record[2][2 * i]
  end
  local hash, field = place(table.concat(texts, ','))
  if call('HGET', hash, field) == number then
    call('HDEL', hash, field)
  end
  return number
end
