-- The ids of the entries that become a batch, in `ids`. Part of claim.lua.
--
-- A shard is due when its oldest entry is. Then all other entries go along, unless `which` is 'ripe'.
-- An entry that hasten.lua made due has the time 1, and goes alone.

local ids = {}
if which == 'ids' then
  for i = 8, #ARGV do
    ids[#ids + 1] = ARGV[i]
  end
else
  -- What was written while the clock was ahead is not due for long. It goes first.
  ids = call('ZRANGEBYSCORE', due, string.format('(%.0f', now + max_age), '+inf', 'LIMIT', 0, size)
  local is_due = ids[1] or call('ZCOUNT', due, 2, now) > 0
  local whole = which == 'all' or is_due and which ~= 'ripe'
  local to = whole and string.format('%.0f', now + max_age) or now
  for _, id in ipairs(call('ZRANGEBYSCORE', due, '-inf', to, 'LIMIT', 0, size - #ids)) do
    ids[#ids + 1] = id
  end
end
