-- Reads all that a gateway needs to open a room, at one moment.
--
-- KEYS  1 meta (hash: epoch, seq, likes)   2 log (stream)   3 slots (hash)   4 recent (list)
-- ARGV  1 epoch to begin with, if the room has none   2 seconds an idle room's keys live
-- Result: {epoch, seq, likes, slots as a flat list, log entries as XRANGE gives them, recent comments newest first}
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {
  redis.call('HGET', KEYS[1], 'epoch'),
  tonumber(redis.call('HGET', KEYS[1], 'seq') or '0'),
  tonumber(redis.call('HGET', KEYS[1], 'likes') or '0'),
  redis.call('HGETALL', KEYS[3]),
  redis.call('XRANGE', KEYS[2], '-', '+'),
  redis.call('LRANGE', KEYS[4], 0, -1),
}
