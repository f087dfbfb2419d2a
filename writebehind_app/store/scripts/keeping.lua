-- Keeps a base, or a lease for one, for so many µs. If all of a shard take too much memory, those go
-- that end first. `S:bases` has the bytes of each and when it ends, `S:bytes` the sum.
local function keep(id, text, left, whole, most) -- `whole` if nothing is kept for longer
  local index, total = shard .. ':bases', shard .. ':bytes'
  redis.call('SET', shard .. ':b:' .. id, text, 'PX', math.ceil(left / 1000))
  local bytes = tonumber(redis.call('GET', total) or 0) or 0
  local size = #text + 2 * #id + 300
  if redis.call('ZADD', index, now + left, size .. ' ' .. id) == 1 then
    bytes = bytes + size
  end
  local function forget(members, and_drop)
    for _, member in ipairs(members) do
      local own, of = string.match(member, '^(%d+) (.*)$')
      redis.call('ZREM', index, member)
      bytes = bytes - (tonumber(own) or 0)
      if and_drop then
        redis.call('UNLINK', shard .. ':b:' .. (of or ''))
      end
    end
    return members[1]
  end
  forget(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, 10))
  while bytes > most and forget(redis.call('ZRANGE', index, 0, 0), true) do end
  redis.call('SET', total, math.max(bytes, 0), 'PX', math.ceil(whole / 1000))
  redis.call('PEXPIRE', index, math.ceil(whole / 1000))
end
