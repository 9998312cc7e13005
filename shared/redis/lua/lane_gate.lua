-- Fragment: how many jobs a lane may take now, why not more, and when to ask again.
-- A: the question of claim_submit.lua; `held`, `lane_key`: its index and hash of the lane.

local next_in = -1

local function soonest(ms)
  if ms >= 0 and (next_in < 0 or ms < next_in) then next_in = ms end
end

local function first_due(key)
  local first = redis.call("ZRANGE", key, 0, 0, "WITHSCORES")
  if first[2] then soonest(math.max(0, tonumber(first[2]) - NOW)) end
end

-- How many jobs the lane may take now, and why not more.
local function places()
  local posts = redis.call("ZCARD", held)
  redis.call("ZREMRANGEBYSCORE", K.slots(A.lane), "-inf", NOW)
  local lane = redis.call("HMGET", lane_key, "closed_until", "blocked", "probe_at", "ambiguous", "paused_at")
  if CONTROL[1] then return 0, "frozen" end
  if lane[5] then return 0, "paused" end -- by hand
  if tonumber(lane[1] or "0") > NOW then
    soonest(tonumber(lane[1]) - NOW)
    return 0, "closed"
  end
  local stuck = redis.call("ZCOUNT", K.index("intents:" .. A.lane), "-inf", NOW - A.stuck_ms) >= A.breaker
  if lane[2] or stuck or tonumber(lane[4] or "0") >= A.breaker then -- one probe at a time
    if posts > 0 then return 0, "blocked" end
    if tonumber(lane[3] or "0") > NOW then
      soonest(tonumber(lane[3]) - NOW)
      return 0, "blocked"
    end
    return 1, "probe"
  end
  local slots = A.max_slots - redis.call("ZCARD", K.slots(A.lane))
  if posts >= A.max_posts then return 0, "posts" end
  if slots <= 0 then
    first_due(K.slots(A.lane))
    return 0, "slots"
  end
  return math.min(A.k, A.max_posts - posts, slots), "idle"
end
