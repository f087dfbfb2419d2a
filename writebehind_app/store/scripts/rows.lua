-- The rows of a call, each an id, how many names, name, text, name, text, ... Here new ids become due,
-- in the order of their numbers, and nothing else changes. If the clock was put back, numbers are
-- ahead of it: then the clock counts.

local due, max_age, quiet = shard .. ':due', tonumber(ARGV[5]), tonumber(ARGV[6])
local rows, new, is_new, refusal, count, at = {}, {}, {}, nil, 0, 7
local from = max_age + (first - now < 1000000 and first or now)
while ARGV[at] do
  count = count + 1
  rows[count] = at
  if call('ZADD', due, 'NX', from + count - 1, ARGV[at]) == 1 then
    new[#new + 1], is_new[count] = ARGV[at], true
  end
  at = at + 2 + 2 * ARGV[at + 1]
end
