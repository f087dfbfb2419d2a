-- Takes one write of one row, or of one entity, into its pending entry.
--
-- KEYS[1]  the shard
-- ARGV     as in delivery.lua; then id, max_age µs, quiet µs, '1' for a delete or '', what the row
--          must look like or '', the version of the declaration, then name, text, name, text, ...
-- Returns  as delivery.lua: the number of the entry that now holds the write, or 0 where the row
--          looks different; 'overflow', name where an operation leaves the range of its field
--
-- The pending entry is a hash. Its field '@' is 'no writes since at row relative': the number that
-- names the entry within the shard, how many writes are in it, the times of the first and the last
-- of them, what becomes of the row (1, it stays, or comes to be; 2, it goes; or two times, of which
-- one is when it goes and the other when a new one came), and whether there are operations whose outcome depends on the stored row.
-- ' version layers' comes after it, unless both are 0. What is written under another version than
-- what is pending cannot go into that, as only newer code knows what the old texts mean now: they
-- are put aside as a layer, under '<n:' and their names, '@' among them, and the entry begins anew.
--
-- Every other name is a field of the row, or '&field:"key"' for a key of a JSON object that is
-- merged into a field. A text is JSON, or an operation: '+', '>' (not below) or '<' (not above),
-- then the kind '#' and 'amount,places,least,most' for whole numbers and decimals, the same with
-- '$' for a number within JSON, or the kind '~' (compared as text) or '%' (as a float) and the
-- amount. An operation may end in ';' and a time: what is pending and older is void.
--
-- Of an entity, a name is a meta key in JSON, '"key"', and stands for a row of its own. The text '!'
-- deletes that row; a text after it is kept with '!' before it. '@"key"' is when the row came to be,
-- if these writes make it, and when it was last written; it is given as '^', or '!' with a deletion.
--
-- An operation on a pending value is carried out; on a stored one, which is not known here, it is
-- kept, as '#add,low,high,null,places' or '~low,high,null': add first, then keep within the
-- bounds; `null` is the outcome where the stored value is NULL, or no number of JSON. Every sequence
-- of operations comes to such a form.
--
-- Operations on a pending value are kept too, under '+' and the name, with the time of the last: in
-- case the value is void by then.
--
-- A name '*digest' says that the call with that key is in the entry.
--
-- In the entry, 16 digits go ahead of each text: the time in µs at which the field was set, or, of
-- an operation that is kept, of the last one. By it a flusher tells what is older than a write that
-- went around Redis.

local id, due = ARGV[2], shard .. ':due'
local entry = shard .. ':e:' .. id
local max_age, quiet = tonumber(ARGV[3]), tonumber(ARGV[4])

-- Whole numbers of any length, as text: a Lua number is exact up to 15 digits only.

local function plain(text)
  local sign, digits = string.match(text, '^(-?)0*(%d+)$')
  return digits == '0' and '0' or sign .. digits
end

local function less(a, b)
  local a_negative, b_negative = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if a_negative ~= b_negative then
    return a_negative
  elseif a_negative then
    a, b = string.sub(b, 2), string.sub(a, 2)
  end
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

-- The digits of |a| + |b|, or of |a| - |b| where |a| >= |b|.
local function combine(a, b, sign)
  local length = math.max(#a, #b)
  a, b = string.rep('0', length - #a) .. a, string.rep('0', length - #b) .. b
  local digits, carry = {}, 0
  for i = length, 1, -1 do
    local sum = string.byte(a, i) - 48 + sign * (string.byte(b, i) - 48) + carry
    carry = math.floor(sum / 10)
    digits[#digits + 1] = sum % 10
  end
  if carry > 0 then
    digits[#digits + 1] = carry
  end
  return string.reverse(table.concat(digits))
end

local function add(a, b)
  if #a <= 15 and #b <= 15 then
    return plain(string.format('%.0f', tonumber(a) + tonumber(b)))
  end
  local a_digits, b_digits = string.match(a, '%d+'), string.match(b, '%d+')
  local a_sign, b_sign = string.match(a, '^-?'), string.match(b, '^-?')
  if a_sign == b_sign then
    return plain(a_sign .. combine(a_digits, b_digits, 1))
  elseif less(a_digits, b_digits) then
    return plain(b_sign .. combine(b_digits, a_digits, -1))
  end
  return plain(a_sign .. combine(a_digits, b_digits, -1))
end

local overflow = false -- whether a number left the range of its field

-- Decimals are whole numbers of their last place.

local function to_number(text, places)
  if places == '' then
    return plain(text)
  end
  local sign, whole, fraction = string.match(text, '^"(-?)(%d+)%.?(%d*)"$')
  if #fraction > tonumber(places) then
    overflow = true -- written when the field had more places
  end
  return plain(sign .. whole .. fraction .. string.rep('0', tonumber(places) - #fraction))
end

local function from_number(number, places)
  if places == '' then
    return number
  end
  local sign, digits = string.match(number, '^(-?)(%d+)$')
  places = tonumber(places)
  digits = string.rep('0', places + 1 - #digits) .. digits
  local point = places > 0 and '.' or ''
  return '"' .. sign .. string.sub(digits, 1, #digits - places) .. point
    .. string.sub(digits, #digits - places + 1) .. '"'
end

-- Numbers of JSON are whole, or floats. A value that is none counts as nothing.

local function whole(number)
  return string.find(number, '^%-?%d+$')
end

local function json_number(text)
  return string.match(text, '^%[(%-?%d[%d.eE+-]*)%]$')
end

local function json_add(a, b)
  if whole(a) and whole(b) then
    return add(a, b)
  end
  local sum = string.format('%.17g', tonumber(a) + tonumber(b))
  return whole(sum) and sum .. '.0' or sum
end

-- Operations: one on a value, which may be nil for NULL, or a bound, which may be '' for none.

local function before(kind, a, b)
  if kind == '#' or (kind == '$' and whole(a) and whole(b)) then
    return less(a, b)
  elseif kind == '%' or kind == '$' then
    return tonumber(a) < tonumber(b)
  end
  return a < b
end

local function apply(op, kind, value, amount)
  if value == nil then
    return amount
  elseif op == '+' then
    return (kind == '$' and json_add or add)(value, amount)
  elseif (op == '>' and before(kind, value, amount)) or (op == '<' and before(kind, amount, value)) then
    return amount
  end
  return value
end

local function split(text)
  local parts = {}
  for part in string.gmatch(text .. ',', '([^,]*),') do
    parts[#parts + 1] = part
  end
  return parts
end

local function operated(text, old)
  local op, kind = string.sub(text, 1, 1), string.sub(text, 2, 2)
  local given = split(string.sub(text, 3))
  local amount, places = given[1], given[2] or ''

  if old and not string.find(old, '^[#$~%%]') then
    local value = nil
    if old ~= 'null' then
      value = (kind == '#' and to_number(old, places)) or (kind ~= '$' and old) or json_number(old)
    end
    value = apply(op, kind, value, amount)
    if (kind == '#' or kind == '$') and whole(value) then
      overflow = overflow or less(value, given[3]) or less(given[4], value)
    end
    return (kind == '#' and from_number(value, places)) or (kind == '$' and '[' .. value .. ']') or value
  end

  local numeric = kind == '#' or kind == '$'
  local form = old and split(string.sub(old, 2))
    or (numeric and {'0', '', '', '', places} or {'', '', ''})
  local first = numeric and 2 or 1 -- where the bounds begin
  local low, high, null = form[first], form[first + 1], form[first + 2]
  local function plus(bound)
    return bound ~= '' and apply(op, kind, bound, amount) or ''
  end
  if op == '+' then
    form[1], low, high = add(form[1], amount), plus(low), plus(high)
  elseif op == '>' then
    low, high = apply(op, kind, low ~= '' and low or nil, amount), plus(high)
  else
    low, high = plus(low), apply(op, kind, high ~= '' and high or nil, amount)
  end
  null = apply(op, kind, null ~= '' and null or nil, amount)
  form[first], form[first + 1], form[first + 2] = low, high, null
  return kind .. table.concat(form, ',')
end

-- The write

local pending = redis.pcall('HGET', entry, '@')
local no, writes, since, at, row, relative, tail
if type(pending) == 'string' then
  no, writes, since, at, row, relative, tail =
    string.match(pending, '^(%d+) (%d+) (%d+) (%d+) ([%d:]+) ([01])(.*)$')
end
local version, layers = '0', 0
if tail and tail ~= '' then
  version, layers = string.match(tail, '^ (%d+) (%d+)$')
end
local is_ours = no and version and not string.find(pending, string.rep('%d', 19))
  and (row == '1' or row == '2' or string.find(row, '^%d+:%d+$'))
if not is_ours and redis.call('EXISTS', entry) == 1 then
  -- Somebody else wrote it. A flush will find it under an id that no row has.
  local aside = 'planted ' .. now .. ' ' .. id
  redis.call('RENAME', entry, shard .. ':e:' .. aside)
  redis.call('ZADD', due, now, aside)
  pending = false
end
local function moves()
  return string.format('moves %.0f', number(redis.call('HGET', shard, 'moves')))
end
if ARGV[6] ~= '' and ARGV[6] ~= (pending or moves()) then
  return refused(0)
end

if not pending then
  if is_full(redis.call('ZCARD', due) + redis.call('LLEN', shard .. ':flight'), 1) then
    return refused('full')
  end
  writes, since, row, relative, version, layers = 0, now, '1', '0', ARGV[7], 0
end
-- A row that goes has no texts of any version.
local is_apart = version ~= ARGV[7] and row ~= '2' and ARGV[5] ~= '1'
local before_it = is_apart and {no, writes, since, at, row, relative, version, 0}
if is_apart then
  row, relative = '1', '0'
end

local fields, replaced = {}, {}
for i = 8, #ARGV, 2 do
  local name, text = ARGV[i], ARGV[i + 1]
  local sign, first = string.byte(name), string.byte(text)
  local is_operation = first == 43 or first == 60 or first == 62 -- + < >
  local is_key = sign == 34 -- "
  local old, gone, at = nil, '', now
  if pending and not is_apart and row ~= '2' and (is_operation or is_key or text == '^') then
    old = redis.call('HGET', entry, name) or nil
    if old then
      at, old = string.sub(old, 1, 16), string.sub(old, 17)
      if is_key and string.byte(old) == 33 then -- !
        gone, old = '!', #old > 1 and string.sub(old, 2) or nil
      end
    end
  end
  local void_before = is_operation and string.match(text, ';(%d+)$')
  if void_before then
    text = string.sub(text, 1, -#void_before - 2)
    if at < void_before then
      old, gone = nil, ''
    end
  end
  if text == '^' then
    text, at = (old and string.match(old, '^%d+') or now) .. ' ' .. now, now
  elseif is_operation then
    if relative == '1' and redis.call('HEXISTS', entry, '&' .. name .. ':') == 1 then
      old, replaced['&' .. name .. ':'] = '[{}]', true -- an object, whatever is merged into it
    end
    local apart = '+' .. name
    if not old or string.find(old, '^[#$~%%]') then
      at = now
      replaced[apart] = true
    else -- the outcome stands and falls with the value
      local others = redis.call('HGET', entry, apart)
      fields[#fields + 1] = apart
      fields[#fields + 1] = now .. operated(text, others and string.sub(others, 17))
    end
    text = operated(text, old)
    relative = '1'
    if overflow then
      return refused('overflow', name)
    end
  else
    at = now
    if sign == 38 then -- &
      relative = '1'
    elseif relative == '1' then
      replaced['&' .. name .. ':'], replaced['+' .. name] = true, true
    end
  end
  fields[#fields + 1], fields[#fields + 2] = name, at .. (text == '!' and text or gone .. text)
end

-- Nothing was changed before this line. What may fail, as somebody else has written to the shard,
-- comes before what takes the write.

if not pending then
  -- Numbers start at the clock, not at one: a receipt from before Redis lost everything then lies
  -- below 'first' and is not taken for a flushed one.
  if number(redis.call('HGET', shard, 'no')) == 0 then
    redis.call('HSET', shard, 'no', now, 'first', now)
  end
  no = string.format('%.0f', redis.call('HINCRBY', shard, 'no', 1))
end
if quiet > 0 then
  redis.call('ZADD', due, math.min(tonumber(since) + max_age, tonumber(now) + quiet), id)
else
  redis.call('ZADD', due, 'NX', tonumber(now) + max_age, id)
end
redis.call('HINCRBY', shard, 'accepted', 1)

if is_apart then
  layers = layers + 1
  local texts = redis.call('HGETALL', entry)
  for i = 1, #texts, 2 do
    local name, text = texts[i], texts[i + 1]
    if not string.find(name, '^[<*]') then
      text = name == '@' and table.concat(before_it, ' ') or text
      redis.call('HDEL', entry, name)
      redis.call('HSET', entry, '<' .. layers .. ':' .. name, text)
    end
  end
  redis.call('ZADD', due, 'XX', now, id) -- at once, before there are many
end
if ARGV[5] == '1' then
  -- Nothing that was written before a delete matters after it, but that calls were carried out.
  for _, name in ipairs(pending and redis.call('HKEYS', entry) or {}) do
    if string.byte(name) == 42 then -- *
      fields[#fields + 1], fields[#fields + 2] = name, now
    end
  end
  redis.call('DEL', entry)
  row, relative, layers = '2', '0', 0
elseif row == '2' then
  row = at .. ':' .. now
end
if next(replaced) then
  for _, name in ipairs(redis.call('HKEYS', entry)) do
    if replaced[string.match(name, '^&[^:]*:') or name] then
      redis.call('HDEL', entry, name)
    end
  end
end
local head = table.concat({no, writes + 1, since, now, row, relative}, ' ')
if ARGV[7] ~= '0' or tonumber(layers) > 0 then
  head = head .. ' ' .. ARGV[7] .. ' ' .. string.format('%.0f', layers)
end
redis.call('HSET', entry, '@', head, unpack(fields, 1, math.min(#fields, 1000)))
for i = 1001, #fields, 1000 do -- Lua unpacks a few thousand at most
  redis.call('HSET', entry, unpack(fields, i, math.min(i + 999, #fields)))
end
return done(no)
