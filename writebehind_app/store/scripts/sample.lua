-- Notes how much waits: for each minute of the last hour, and each hour of the last day, the most
-- that was seen in it.
--
-- KEYS[1]  the samples, a hash: 'minute 7' and 'hour 7' hold {"at": minutes or hours since 1970,
--          "of": {label: [entries, ms], ...}}; whoever comes in the next hour, or on the next day,
--          takes their place
-- ARGV     of each buffer: its label, how many entries it has, for how many ms the oldest waits
-- Returns  1

local samples, seconds = KEYS[1], redis.call('TIME')[1]

local function seen(field, at)
  local text = redis.pcall('HGET', samples, field)
  if type(text) == 'table' then
    redis.call('DEL', samples) -- somebody else wrote it
  end
  local is_json, found = pcall(cjson.decode, text)
  if is_json and type(found) == 'table' and found.at == at and type(found.of) == 'table' then
    return found.of
  end
  return {}
end

for name, span in pairs({minute = {60, 60}, hour = {3600, 24}}) do
  local length, count = span[1], span[2]
  local at = math.floor(seconds / length)
  local field = name .. ' ' .. at % count
  local of = seen(field, at)
  for i = 1, #ARGV, 3 do
    local before = type(of[ARGV[i]]) == 'table' and of[ARGV[i]] or {}
    of[ARGV[i]] = {
      math.max(tonumber(before[1]) or 0, ARGV[i + 1]),
      math.max(tonumber(before[2]) or 0, ARGV[i + 2]),
    }
  end
  redis.call('HSET', samples, field, cjson.encode({at = at, of = of}))
end
redis.call('EXPIRE', samples, 172800)
return 1
