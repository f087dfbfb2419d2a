-- Tries commands on a shard that no buffer has. Most fail, as their arguments make no sense. But a
-- server first checks whether it knows a command and whether the user may run it.
--
-- KEYS[1]  the shard
-- ARGV     the commands
-- Returns  {command, error, ...} of those that failed

local shard = KEYS[1]
local replies = {}
for _, command in ipairs(ARGV) do
  local reply, args = redis.pcall(command), {}
  while type(reply) == 'table' and string.find(reply.err or '', 'rong number of arg') and #args < 8 do
    args[#args + 1] = shard
    reply = redis.pcall(command, unpack(args))
  end
  if type(reply) == 'table' and reply.err then
    replies[#replies + 1], replies[#replies + 2] = command, reply.err
  end
end
redis.pcall('DEL', shard)
return replies
