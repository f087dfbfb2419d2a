-- Whether rows of operate.lua may be taken: their guards, their idempotency keys, and what one entry
-- may hold. Nothing changes yet.

local most_names, most_bytes = 4096, 4000 -- of an entry, and of the operations on a field
local function number(reply) -- somebody else may have put anything there
  return type(reply) == 'number' and reply or 0
end
for n = 1, count do
  local at, is_open, size = rows[n], false, 0
  local entry = shard .. ':e:' .. ARGV[at]
  for i = at + 2, at + 1 + 2 * ARGV[at + 1], 2 do
    local name, mark = ARGV[i], string.byte(ARGV[i])
    if mark == 36 then -- $
      local found = redis.pcall('HMGET', entry, '@', '!')
      local guard = (call('HGET', shard, 'guard') or '') .. ' ' .. (found[1] or found[2] or '')
      refusal = refusal or guard ~= ARGV[i + 1] and {now, 'stale'}
    elseif mark == 42 then -- *
      local known = call('GET', shard .. ':once:' .. string.sub(name, 2))
      refusal = refusal or known and {now, 'known', tonumber(known)}
    elseif state[5] and number(redis.pcall('HSTRLEN', entry, '+' .. name)) > most_bytes then
      refusal = refusal or {now, 'full'}
    end
    if mark and mark < 65 then -- other than a field: of such names there may be any number
      is_open = is_open or string.find(name, '["*]')
    end
  end
  if is_open and ARGV[at + 1] + number(redis.pcall('HLEN', entry)) > most_names then
    refusal = refusal or {now, 'full'}
  end
end
