-- Fragment: the only clock is the server's. ARGV[2] is empty in production; tests pass a time in ms.
local function server_us()
  if ARGV[2] ~= "" then return tonumber(ARGV[2]) * 1000 end
  local t = redis.call("TIME")
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local NOW_US = server_us()
local NOW = math.floor(NOW_US / 1000)
