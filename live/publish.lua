-- Appends one certain event to a room's log, numbers it, sets what it changes in the snapshot, and tells the gateways.
--
-- KEYS  1 meta (hash: epoch, seq)   2 log (stream)   3 slots (hash)   4 mark of this event's id
-- ARGV  1 epoch to begin with, if the room has none   2 channel   3 record (opaque)   4 entries the log keeps
--       5 seconds an idle room's keys live   6 seconds an event's id is remembered   7… slot, value, slot, value …
-- Result: the event's number, or false if an event with this id was published before.
if not redis.call('SET', KEYS[4], 1, 'NX', 'EX', ARGV[6]) then
  return false
end
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], seq .. '-0', 'r', ARGV[3])
for i = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end
redis.call('SPUBLISH', ARGV[2], 'e ' .. epoch .. ' ' .. seq .. ' ' .. ARGV[3])
return seq
