-- Takes writes to rows that are more than plain values: all or none.
--
-- KEYS[1]  the shard
-- ARGV     as in call.lua, then rows as in rows.lua
-- Returns  {now, the number of the first row}; the others have the next numbers. Or {now, why not}:
--          'late', 'full', 'stale' (the guard has changed), 'known', number (of an idempotency key)
--
-- A text is JSON, or an operation: one of + > < &, kind, ':', operand. Some names mean more: ''
-- deletes the row. '!' before a meta key deletes the key; '#' is when its row was created. '&' is a
-- key that a Merge sets. '*' is an idempotency key; its text says for how many ms. The text of '$' is
-- the guard of the row.

-- include call.lua
-- include rows.lua
-- include looks.lua
-- include take.lua

for n = 1, count do
  local at, number = rows[n], string.format('%.0f', first + n - 1)
  local entry, fields, size = shard .. ':e:' .. ARGV[at], {'@', number}, 2
  for i = at + 2, at + 1 + 2 * ARGV[at + 1], 2 do
    local name, text = ARGV[i], ARGV[i + 1]
    local sign, mark = string.byte(text), string.byte(name)
    if not mark or mark < 48 and mark ~= 34 then
      -- include rarely.lua
    elseif sign == 43 or sign == 62 or sign == 60 or sign == 38 then -- + > < &
      -- include segments.lua
    else
      text = number .. text
    end
    if name then
      fields[size + 1], fields[size + 2], size = name, text, size + 2
    end
  end
  -- include keep.lua
end
return {now, first}
