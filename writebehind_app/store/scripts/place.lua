-- The hash, and its field, that hold the number of the record with a unique id. There are many small
-- hashes of digests: they take a third of the memory.
local function place(id)
  local digest = redis.sha1hex(id)
  return shard .. ':taken:' .. string.sub(digest, 1, 3), string.sub(digest, 4, 24)
end
