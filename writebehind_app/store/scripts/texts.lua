-- The texts of an entry. If it is no hash, a text under a name that says so: the batch has it too.
local function texts_of(entry)
  local texts = redis.pcall('HGETALL', entry)
  if texts.err and not string.find(texts.err, 'WRONGTYPE') then
    error(texts.err) -- the user may not ask: that is not the entry's fault
  elseif texts.err then
    local kind = redis.call('TYPE', entry).ok
    texts = {'a ' .. kind, kind == 'string' and redis.call('GETRANGE', entry, 0, 999) or ''}
  end
  return texts
end
