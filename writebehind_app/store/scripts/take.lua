-- Takes a call of `count` writes, with `new` ids; or does not, if there is a `refusal`.
--
-- A disowned sender has a score above every number, so that ZADD leaves it as it is.

local last = first + count - 1
if refusal then -- it has a reason already
elseif new[1] and ARGV[3] ~= '-'
  and call('ZCARD', due) + call('LLEN', shard .. ':flight') > tonumber(ARGV[3]) then
  refusal = {now, 'full'}
elseif call('ZADD', shard .. ':senders', 'GT', 'CH', last, ARGV[1]) == 0 then
  refusal = {now, 'late'}
end
if refusal then
  for _, id in ipairs(new) do
    call('ZREM', due, id)
  end
  return refusal
end
call('HSET', shard, 'last', last, 'accepted', (tonumber(state[2]) or 0) + count)
if not state[1] then
  call('HSET', shard, 'first', first - 1) -- what is older, an earlier Redis lost
end
if ARGV[4] ~= (state[3] or '0') then -- no sum goes on over the writes of another version
  closed = first - 1
  call('HSET', shard, 'version', ARGV[4], 'closed', closed)
end
