-- Fragment: the share of its rate that a lane uses. A 429 halves it, and it climbs again by as much per second: so a
-- rate that is set too high, or that the provider lowers, is found without asking. In thousandths, in the lane's hash.

local FULL, LEAST, CLIMB_MS = 1000, 30, 60000 -- from nothing to the full rate in a minute

local function pace_of(key)
  local r = redis.call("HMGET", key, "pace", "pace_at")
  if not r[1] then return FULL end
  local climbed = math.max(0, NOW - tonumber(r[2])) * FULL / CLIMB_MS
  return math.min(FULL, math.floor(tonumber(r[1]) + climbed))
end

-- Halves it from `at_ms` on, when the lane opens again.
local function pace_halve(key, at_ms)
  local pace = math.max(LEAST, math.floor(pace_of(key) / 2))
  redis.call("HSET", key, "pace", pace, "pace_at", string.format("%.0f", at_ms))
end

-- The interval between permits at the lane's pace; 0, no rate, stays 0.
local function paced_us(key, interval_us)
  return math.floor(interval_us * FULL / pace_of(key))
end
