-- Reads who is in a room, as far as its gateways named them.
--
-- KEYS  1 presence (hash: gateway → "viewers until-ms")   2 roster (hash: gateway → "until-ms sample")
-- Result: for each gateway that counts: {viewers, its sample or an empty string if it named nobody of late}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local count, till = string.match(all[i + 1], '^(%d+) (%d+)$')
  if all[i] ~= 'told' and count and tonumber(till) > now then
    local holds, sample = string.match(redis.call('HGET', KEYS[2], all[i]) or '', '^(%d+) (.*)$')
    if not holds or tonumber(holds) <= now then
      sample = ''
    end
    found[#found + 1] = { tonumber(count), sample }
  end
end
return found
