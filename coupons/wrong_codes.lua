-- Lets a code be tried unless too many were wrong lately, and counts the try as wrong until it is taken back.
--
-- KEYS  one sorted set for each of clerk, store, brand (try → ms when it was made)
-- ARGV  1 ms that a wrong code counts   2 this try's name   3… how many may be wrong, for each key
-- Result: 0, or how many ms to wait: then nothing was counted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = 0
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ARGV[1])
  local over = redis.call('ZCARD', key) - tonumber(ARGV[i + 2])
  if over >= 0 then
    local oldest = redis.call('ZRANGE', key, over, over, 'WITHSCORES')
    wait = math.max(wait, oldest[2] + ARGV[1] - now, 1)
  end
end
if wait > 0 then
  return wait
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now, ARGV[2])
  redis.call('PEXPIRE', key, ARGV[1])
end
return 0
