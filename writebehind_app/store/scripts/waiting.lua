-- Lists the ids of which something is pending or in flight.
--
-- KEYS[1]  the shard
-- ARGV     how many ids at most, then the ids to look for; without any, all
-- Returns  {the token of the last ack, how many there are, why the shard is not open or '', id, ...};
--          no ids if all are too many

local shard = KEYS[1]
local due, flight = shard .. ':due', shard .. ':flight'
local state = redis.call('HMGET', shard, 'acked', 'open')
local reply = {state[1] or '', 0, state[2] == '1' and '' or state[2] or '?'}
reply[2] = redis.call('ZCARD', due) + redis.call('LLEN', flight)
if reply[2] == 0 or not ARGV[2] and reply[2] > tonumber(ARGV[1]) then
  return reply
end
local in_flight = redis.call('LRANGE', flight, 0, -1)
if not ARGV[2] then
  for _, ids in ipairs({redis.call('ZRANGE', due, 0, -1), in_flight}) do
    for _, id in ipairs(ids) do
      reply[#reply + 1] = id
    end
  end
  return reply
end
local flying = {}
for _, id in ipairs(in_flight) do
  flying[id] = true
end
for from = 2, #ARGV, 1000 do -- Lua passes no more than some thousand at once
  local to = math.min(from + 999, #ARGV)
  for i, score in ipairs(redis.call('ZMSCORE', due, unpack(ARGV, from, to))) do
    local id = ARGV[from + i - 1]
    if score or flying[id] then
      reply[#reply + 1] = id
    end
  end
end
return reply
