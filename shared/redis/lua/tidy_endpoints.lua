#!lua flags=allow-oom
-- Takes deliveries that wait nowhere any more out of their endpoints: a worker of a version that knows no endpoints
-- ended them. Bounded: the oldest of the endpoints with the most. Atomic because a delivery may come back meanwhile.
-- ARGV: 1 prefix, 2 now_ms or "" (unread), 3 state of a delivery that waits, 4 most endpoints, 5 most of each
-- Returns: how many were taken out
--!include keys
--!include endpoint
local taken = 0
for _, host in ipairs(redis.call("ZREVRANGE", K.endpoints, 0, ARGV[4] - 1)) do
  for _, id in ipairs(redis.call("ZRANGE", K.waiting(host), 0, ARGV[5] - 1)) do
    local record = redis.call("HMGET", K.record("d", id), "state", "waits_at")
    if record[1] ~= ARGV[3] or record[2] ~= host then
      endpoint_move(id, { host, "", 0, 0 })
      taken = taken + 1
    end
  end
end
return taken
