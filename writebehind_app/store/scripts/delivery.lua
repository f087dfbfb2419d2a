-- What write.lua and append.lua begin with: a call is carried out once, and not after its time.
--
-- ARGV[1]  'deadline seq again session index room once after': the time in µs after which nobody waits for
--          the call; who calls, and which of the calls this is; '1' where the same call was sent
--          before and may have been carried out, else '0'; how many entries the shard may hold, or
--          '-'; for how many seconds it is the only one of its session that may be carried out, or
--          '-'; the index of a call of this round without which this one is not carried out, or
--          nothing. The deadline and the seq have 16 digits: as texts they are in the order of the numbers
-- Returns  {now, what it comes to}, now in µs: what is said where it is carried out, and the same
--          where that was so before; or 'late', 'full', or 'after' where the one before it was not
--
-- A session does one round of calls at a time: their seq is the number of the round, their index
-- tells them apart. ':w:<session>' holds for each index 'seq renew outcome': the greatest seq that
-- was carried out, and what it came to. So a call that comes twice, or when the next round is over,
-- is done once; and what is remembered does not grow with the number of calls. It is forgotten 600 s
-- after the last call or, as that is put off no sooner than at the time 'renew', after 300 s.
--
-- The session of a call with `once` is that of the caller's key, its seq the time: whoever comes after
-- one that was carried out is told what that came to.

local shard = KEYS[1]
local time = redis.call('TIME')
local now = time[1] .. string.sub('00000' .. time[2], -6)

local seq, again, session, index, room, once, after =
  string.match(ARGV[1], '^%d+ (%d+) (%d) (%S+) (%d+) (%S+) (%S+) ?(%d*)$')
local seconds = tonumber(once) or 600

-- A number that the shard's state has; 0 where it has none, or somebody else wrote it: none has come
-- near to 2^53 before the year 2255.
local function number(text)
  local found = text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text) or 0
  return found < 9000000000000000 and found or 0
end

local memory = shard .. ':w:' .. session
local remembered = '^' .. string.rep('%d', 16) .. ' ' .. string.rep('%d', 16) .. ' %d+$'
local known = redis.pcall('HGET', memory, index)
if type(known) == 'table' and not string.find(known.err, 'WRONGTYPE') then
  return known -- the user may not ask
end
if type(known) == 'table' or (known and not string.find(known, remembered)) then
  redis.call('DEL', memory) -- somebody else wrote it
  known = false
end
local outcome_before = known and string.sub(known, 35)
if known and (seq <= string.sub(known, 1, 16) or (once ~= '-' and outcome_before ~= '0')) then
  -- What waits for disk or replicas waits for what its connection wrote.
  redis.call('EXPIRE', memory, seconds)
  return {now, tonumber(outcome_before)}
end

-- Ends a call that was carried out; the outcome is a whole number, as text.
local function done(outcome)
  local renew = known and string.sub(known, 18, 33)
  if renew and now < renew then
    redis.call('HSET', memory, index, seq .. ' ' .. renew .. ' ' .. outcome)
  else
    renew = string.format('%.0f', tonumber(now) + seconds * 500000)
    redis.call('HSET', memory, index, seq .. ' ' .. renew .. ' ' .. outcome)
    redis.call('EXPIRE', memory, seconds)
  end
  return {now, tonumber(outcome)}
end

-- Ends a call that changed nothing. One that was sent before may be on its way still: it must not
-- be carried out any more.
local function refused(...)
  if again == '1' then
    done('0')
  end
  return {now, ...}
end

local function is_full(held, more)
  return room ~= '-' and held + more > tonumber(room)
end

if now > string.sub(ARGV[1], 1, 16) then
  return {now, 'late'}
end
if after ~= '' then
  local before = redis.call('HGET', memory, after)
  if not before or string.sub(before, 1, 16) ~= seq or string.sub(before, 35) == '0' then
    return refused('after')
  end
end
