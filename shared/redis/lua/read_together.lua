#!lua flags=no-writes,allow-oom
-- Reads several keys at one instant. A script and not MULTI, which a full Redis 7.0 refuses even for reads.
-- ARGV: 1 prefix, 2 now_ms or "" (unread), then per read 2: "hash" | "string" | "list" | "last" (a stream's last
--   entry), key
-- Returns per read: what the server's own command gives
local COMMANDS = {
  hash = function(key) return redis.call("HGETALL", key) end,
  string = function(key) return redis.call("GET", key) end,
  list = function(key) return redis.call("LRANGE", key, 0, -1) end,
  last = function(key) return redis.call("XREVRANGE", key, "+", "-", "COUNT", 1) end,
}
local found = {}
for at = 3, #ARGV, 2 do found[#found + 1] = COMMANDS[ARGV[at]](ARGV[at + 1]) end
return found
