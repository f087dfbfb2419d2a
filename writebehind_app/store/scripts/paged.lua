-- The beginning of each page.
--
-- KEYS[1]  the shard
-- ARGV     'pending' or 'in_flight', how many at most, '1' for the last ones first, the least and
--          the greatest place as ZRANGE takes them, and the id of the entry before the page, or '';
--          then what ids must begin with, or '', how many entries to look at for that, and the
--          length of the longest text to return, or 0 for any
-- Returns  {attempts, error, stopped, {id, place, {name, text, ...}}, ...}; the first two are of the
--          batch; stopped is {id, place} of the last entry that was looked at, if more may match;
--          a mark replaces a longer text

local shard, which, count, reverse = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local least, greatest, before, beginning = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local state = redis.call('HMGET', shard, 'attempts', 'error', 'to')
local longest = tonumber(ARGV[9])
local reply = {tonumber(state[1]) or 0, state[2] or '', {}}
local function shortened(texts, first) -- where a value begins
  for i = 2, #texts, 2 do
    if longest > 0 and #texts[i] > longest then
      local is_json = string.sub(texts[i], first, first) == '['
      texts[i] = string.sub(texts[i], 1, first - 1) .. (is_json and '["…"]' or '"…"')
    end
  end
  return texts
end
