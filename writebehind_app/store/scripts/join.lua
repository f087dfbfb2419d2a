-- Joins a pending entry to the entry in flight of the same id. Numbers say what is void by now.
local texts, deletes = call('HGETALL', entry), call('HEXISTS', entry, '!') == 1
if deletes then
  for _, name in ipairs(call('HKEYS', frozen)) do
    if name ~= '#' and string.byte(name) ~= 42 then -- as in rarely.lua
      call('HDEL', frozen, name)
    end
  end
elseif call('HEXISTS', frozen, '@') == 0 then
  call('HSET', frozen, '^', since) -- the first write after a delete
end
for i = 1, #texts, 2 do
  local name, text = texts[i], texts[i + 1]
  local mark, rest = string.byte(name), string.sub(name, 2)
  if mark == 43 then -- +: the newest operations first
    local older = call('HGET', frozen, name)
    call('HSET', frozen, name, older and text .. ' ' .. older or text)
  elseif mark ~= 35 then
    call('HSET', frozen, name, text)
  elseif rest ~= '' then -- #: when the row of a meta key came to be
    local first, gone = unpack(call('HMGET', frozen, name, '!' .. rest))
    if not first or call('HEXISTS', entry, '!' .. rest) == 1
      or (tonumber(first) or 0) <= (tonumber(gone or 0) or 0) then
      call('HSET', frozen, name, text)
    end
  end
end
call('UNLINK', entry)
