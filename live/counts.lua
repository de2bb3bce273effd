-- Reads the live figures of a room.
--
-- KEYS  1 presence (hash: gateway → "viewers until-ms")   2 uniques (HyperLogLog)   3 meta (hash: likes)
-- Result: {viewers, uniques, likes}
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
return { viewers, redis.call('PFCOUNT', KEYS[2]), tonumber(redis.call('HGET', KEYS[3], 'likes') or '0') }
