-- Gives a room's log a new epoch, because numbers that viewers have seen are no longer in it.
--
-- KEYS  1 meta (hash: epoch)
-- ARGV  1 the epoch that is no longer true   2 the epoch to put in its place
-- Result: the epoch now; another gateway may have renewed it first.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
end
return redis.call('HGET', KEYS[1], 'epoch')
