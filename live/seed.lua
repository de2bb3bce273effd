-- Sets the pieces of a room's snapshot that are not known yet; what an event set meanwhile stays.
--
-- KEYS  1 slots (hash)
-- ARGV  1 seconds an idle room's keys live   2… slot, value, slot, value …
-- Result: how many were set.
local set = 0
for i = 2, #ARGV, 2 do
  set = set + redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return set
