-- Fragment: what an answer of the provider says of its lane. Not guarded: it is true whatever became of the job.

-- verbs: ok | ambiguous probe_ms breaker | close ms | block reason probe_ms
local function lane_note(lane, verb, a, b)
  local key = K.lane(lane)
  if verb == "ok" then
    redis.call("HDEL", key, "ambiguous", "blocked", "blocked_at", "probe_at")
  elseif verb == "ambiguous" then
    local run = redis.call("HINCRBY", key, "ambiguous", 1)
    if run >= b then redis.call("HSET", key, "probe_at", NOW + a) end
  elseif verb == "close" then
    local closed_ms = tonumber(redis.call("HGET", key, "closed_until") or "0")
    local until_ms = math.max(closed_ms, NOW + a)
    redis.call("HSET", key, "closed_until", string.format("%.0f", until_ms))
    if closed_ms <= NOW then pace_halve(key, until_ms) end -- once for all POSTs that were out together
    redis.call("HINCRBY", key, "throttled", 1)
  elseif verb == "block" then
    redis.call("HSET", key, "blocked", a, "probe_at", NOW + b)
    redis.call("HSETNX", key, "blocked_at", NOW)
  end
end
