-- Writes something that is gone soon, to see whether Redis takes writes of this package.
--
-- KEYS[1]  a key that no buffer has

redis.call('HSET', KEYS[1], 'here', 1)
redis.call('EXPIRE', KEYS[1], 10)
