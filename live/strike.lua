-- Takes somebody's words and sanctions out of a room's snapshot. The log keeps its numbers; it ends by itself.
--
-- KEYS  1 recent (list: comment events)   2 slots (hash)
-- ARGV  1 the bytes that name the author in an event   2… slots to take out
-- Result: how many comments were taken out.
local struck = 0
for _, event in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if string.find(event, ARGV[1], 1, true) then
    struck = struck + redis.call('LREM', KEYS[1], 0, event)
  end
end
for i = 2, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
end
return struck
