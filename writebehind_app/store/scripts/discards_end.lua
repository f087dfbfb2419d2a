-- The end of each discard. The last thousand are known. 'forgot' is the greatest unknown number.
if count > 0 then
  local gone = shard .. ':discarded'
  local forgotten = call('ZRANGE', gone, -1001, -1001, 'WITHSCORES')
  if forgotten[2] then
    call('HSET', shard, 'forgot', forgotten[2])
    call('ZREMRANGEBYRANK', gone, 0, -1001)
  end
  call('HSET', shard, 'guard', ARGV[3])
  call('HINCRBY', shard, 'discarded', count)
end
return count
