-- Tells the gateways events that are not numbered, and keeps what must outlive the moment.
--
-- KEYS  1 kept (stream: rows for the worker to store)   2 recent (list: newest comments first, for the snapshot)
-- ARGV  1 channel   2 record (opaque)   3 rows the kept stream holds at most   4 comments the recent list holds
--       5 seconds an idle room's keys live   6 number of recent comments   7… those comments, then the rows to keep
-- Result: the number of rows in the kept stream.
local recent = tonumber(ARGV[6])
for i = 7, 6 + recent do
  redis.call('LPUSH', KEYS[2], ARGV[i])
end
if recent > 0 then
  redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[4]) - 1)
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
for i = 7 + recent, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'r', ARGV[i])
end
redis.call('SPUBLISH', ARGV[1], 'c ' .. ARGV[2])
return redis.call('XLEN', KEYS[1])
