-- Reads a page of records, as page.lua does entries. Their places are their numbers.

-- include paged.lua

local to = string.match(state[3] or '', '^%d+$')
if which == 'in_flight' and not to then
  return reply
elseif which == 'in_flight' then
  greatest = to
elseif to and (tonumber(string.match(least, '%d+')) or 0) <= tonumber(to) then
  least = '(' .. to
end
if before ~= '' and reverse then
  greatest = '(' .. greatest
elseif before ~= '' then
  least = '(' .. least
end
local function bound(place) -- as XRANGE takes it
  return ({['-inf'] = '-', ['+inf'] = '+'})[place] or place .. '-0'
end
least, greatest = bound(least), bound(greatest)
local found = reverse and redis.call('XREVRANGE', shard .. ':log', greatest, least, 'COUNT', count)
  or redis.call('XRANGE', shard .. ':log', least, greatest, 'COUNT', count)
for _, record in ipairs(found) do
  reply[#reply + 1] = {record[1], string.match(record[1], '^%d+'), shortened(record[2], 1)}
end
return reply
