-- Takes plain values of rows: all or none.
--
-- KEYS[1]  the shard
-- ARGV     as in call.lua, then rows as in rows.lua; a text is JSON
-- Returns  {now, the number of the first row}; the others have the next numbers. Or {now, 'late'} or
--          {now, 'full'}: nothing was taken

-- include call.lua
-- include rows.lua
-- include take.lua

for n = 1, count do
  local at, number = rows[n], string.format('%.0f', first + n - 1)
  local entry, fields, size = shard .. ':e:' .. ARGV[at], {'@', number}, 2
  for i = at + 2, at + 1 + 2 * ARGV[at + 1], 2 do
    fields[size + 1], fields[size + 2] = ARGV[i], number .. ARGV[i + 1]
    size = size + 2
  end
  -- include keep.lua
end
return {now, first}
