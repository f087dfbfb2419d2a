-- The beginning of each discard. A flusher may have committed its batch: only a batch whose lease is
-- over is thrown away.
local call, shard = redis.call, KEYS[1]
local flight = shard .. ':flight'
local time = call('TIME')
local state = call('HMGET', shard, 'lease', 'token', 'to', 'unique')
local is_idle = (tonumber(state[1]) or 0) <= time[1] * 1000000 + time[2] and state[2] == ARGV[2]
local count = 0

-- Notes the last number and 'first id' of an entry, so that a receipt can tell it from a stored one.
local function discarded(last, name)
  last = tonumber(last)
  call('ZADD', shard .. ':discarded', last > 0 and last or 0, name) -- 'nan' is a number to Lua
  count = count + 1
end
