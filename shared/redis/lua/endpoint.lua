-- Fragment: which deliveries wait at which endpoint. One that is delivered at its first try is never here.

-- The list of endpoints holds how many wait at each, so that the longest come first; an empty one leaves it.
local function endpoint_count(host)
  local waiting = redis.call("ZCARD", K.waiting(host))
  if waiting == 0 then return redis.call("ZREM", K.endpoints, host) end
  return redis.call("ZADD", K.endpoints, waiting, host)
end

-- e: {host it waited at or "", host it waits at now or "", 1 if a try failed, created_at ms}
local function endpoint_move(id, e)
  local before, after, failed, created_at = unpack(e)
  if before ~= "" and before ~= after then
    redis.call("ZREM", K.waiting(before), id)
    redis.call("ZREM", K.failing(before), id)
    endpoint_count(before)
  end
  if after == "" then return end
  redis.call("ZADD", K.waiting(after), created_at, id)
  if failed == 1 then redis.call("ZADD", K.failing(after), created_at, id) end
  endpoint_count(after)
end
