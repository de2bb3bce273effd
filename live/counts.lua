-- Reads the live figures of a room.
--
-- KEYS  1 presence (hash: gateway → "viewers until-ms")   2 uniques (HyperLogLog)   3 meta (hash: likes, peak)
-- Result: {viewers, uniques, likes, most viewers at one time}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local viewers = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local count, till = string.match(all[i + 1], '^(%d+) (%d+)$')
  if all[i] ~= 'told' and count and tonumber(till) > now then
    viewers = viewers + count
  end
end
local meta = redis.call('HMGET', KEYS[3], 'likes', 'peak')
return { viewers, redis.call('PFCOUNT', KEYS[2]), tonumber(meta[1] or '0'), tonumber(meta[2] or '0') }
