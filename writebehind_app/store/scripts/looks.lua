-- Checks whether rows of operate.lua may be taken: guards, idempotency keys, the size of each entry.
-- Nothing changes yet.

local most_names, most_bytes = 4096, 4000 -- of an entry, and of the operations on a field
for n = 1, count do
  local at, is_open = rows[n], false
  local entry = shard .. ':e:' .. ARGV[at]
  for i = at + 2, at + 1 + 2 * ARGV[at + 1], 2 do
    local name, mark = ARGV[i], string.byte(ARGV[i])
    if mark == 36 then -- $
      local found = redis.pcall('HMGET', entry, '@', '!')
      local last = string.match(found[1] or found[2] or '', '^%d+$') or ''
      local guard = (call('HGET', shard, 'guard') or '') .. ' ' .. last
      refusal = refusal or guard ~= ARGV[i + 1] and {now, 'stale'}
    elseif mark == 42 then -- *
      local known = redis.pcall('GET', shard .. ':once:' .. string.sub(name, 2))
      refusal = refusal or type(known) == 'string' and {now, 'known', tonumber(known) or 0}
    elseif state[5] and string.find(ARGV[i + 1], '^[+><&]')
      and (tonumber(redis.pcall('HSTRLEN', entry, '+' .. name)) or 0) > most_bytes then
      -- What a later value has made void goes with the next operation.
      local found = redis.pcall('HMGET', entry, '+' .. name, name, '!' .. name)
      local newest = tonumber(string.match(found[1], '^%d+,(%d+)')) or 0
      local value, deleted = string.sub(found[2] or '', 1, 16), found[3] or 0
      if newest > math.max(tonumber(value) or 0, tonumber(deleted) or 0) then
        refusal = refusal or {now, 'full'}
      end
    end
    if mark and mark < 65 then -- other than a field: of such names there may be any number
      is_open = is_open or string.find(name, '["*]')
    end
  end
  if is_open and ARGV[at + 1] + (tonumber(redis.pcall('HLEN', entry)) or 0) > most_names then
    refusal = refusal or {now, 'full'}
  end
end
