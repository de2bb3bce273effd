-- Reads the list of gateways, with the time by which all of them agree on who fell silent.
--
-- KEYS  1 gateways (hash: gateway → what it says of itself)
-- Result: {seconds, microseconds, gateway, what it said, gateway, …}
local read = redis.call('TIME')
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do
  read[#read + 1] = part
end
return read
