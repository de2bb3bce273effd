-- Adds one gateway's view of a room to all the others', and reads the sum. A gateway that stops coming back is left out
-- once its time is over.
--
-- KEYS  1 presence (hash: gateway → "viewers until-ms"; field "told" → the figures told last)   2 uniques (HyperLogLog)
--       3 meta (hash: likes; peak: the most viewers at one time)   4 roster (hash: gateway → "until-ms sample")
-- ARGV  1 gateway   2 viewers it has now   3 milliseconds its figure holds   4 likes to add
--       5 seconds an idle room's keys live   6 a sample of its viewers (opaque), or empty to leave the one before
--       7… viewers that came since
-- Result: {viewers, uniques, likes, 1 if these figures were not told yet}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = string.format('%.0f', now + ARGV[3])
if tonumber(ARGV[2]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. till)
  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[4], ARGV[1], till .. ' ' .. ARGV[6])
    redis.call('PEXPIRE', KEYS[4], ARGV[3])
  end
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[4], ARGV[1])
end
local viewers = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= 'told' then
    local count, till = string.match(all[i + 1], '^(%d+) (%d+)$')
    if tonumber(till) > now then
      viewers = viewers + count
    else
      redis.call('HDEL', KEYS[1], all[i])
      redis.call('HDEL', KEYS[4], all[i])
    end
  end
end
for i = 7, #ARGV do
  redis.call('PFADD', KEYS[2], ARGV[i])
end
local uniques = redis.call('PFCOUNT', KEYS[2])
local likes = redis.call('HINCRBY', KEYS[3], 'likes', ARGV[4])
for i = 1, 3 do
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end
if viewers > tonumber(redis.call('HGET', KEYS[3], 'peak') or '0') then
  redis.call('HSET', KEYS[3], 'peak', viewers)
end
local figures = string.format('%d %d %d', viewers, uniques, likes)
local fresh = redis.call('HGET', KEYS[1], 'told') ~= figures
if fresh then
  redis.call('HSET', KEYS[1], 'told', figures)
end
return { viewers, uniques, likes, fresh and 1 or 0 }
