-- Adds an operation to those on its field. An entry keeps 'first,last,kind,operand' of each, the
-- newest first, with a blank between them. Operations older than the value of the field go. Those
-- that a save, or a write of another version, has closed stay as they are.

local found = redis.pcall('HMGET', entry, '+' .. name, name, '!' .. name, '|')
local void = math.max(tonumber(string.sub(found[2] or '', 1, 16)) or 0,
  tonumber(found[3] or 0) or 0)
local began, newest, its_kind, its_operand, rest =
  string.match(found[1] or '', '^(%d+),(%d+),([^,]*),(%S*)()')
local older = began and tonumber(newest) > void and found[1] or ''
local kind, operand = string.match(text, '^([^:]*):?(.*)$')
local joined
if older ~= '' and its_kind == kind and tonumber(newest) > closed
  and tonumber(newest) > (tonumber(found[4] or 0) or 0) then
  local a, b = tonumber(its_operand), tonumber(operand)
  if sign == 38 then
    joined = '' -- each key has a number of its own
  elseif a and b and math.abs(a) < 2^53 and math.abs(b) < 2^53 then
    if sign == 43 then
      joined = math.abs(a + b) < 2^53 and string.format('%.0f', a + b)
    elseif sign == 62 then
      joined = a < b and operand or its_operand
    else
      joined = b < a and operand or its_operand
    end
  end
end
name = '+' .. name
if joined then
  text = began .. ',' .. number .. ',' .. kind .. ',' .. joined .. string.sub(older, rest)
else
  text = number .. ',' .. number .. ',' .. kind .. ',' .. operand .. (older ~= '' and ' ' or '') .. older
  if #text > most_bytes then
    call('HSET', shard, 'crowded', 1) -- so that looks.lua looks for it
  end
end
