-- Fragment: does the server's clock run on? A worker notes its time every second (watch_state.lua). After a gap nobody
-- can have renewed a lease: the clock was set forward, or the server was away. Leases that ended within the gap belong
-- to their holders for a while yet, else every POST under way would become unknown at once.

local CONTROL = redis.call("HMGET", K.control, "freeze", "installation", "clock_at", "grace_from", "grace_until",
  "store_stopped_at", "store_probe_at", "untold_gap")
local grace_from, grace_until = tonumber(CONTROL[4] or "0"), tonumber(CONTROL[5] or "0")

-- Spares leases that ended after from_ms.
local function give_grace(from_ms, grace_ms)
  grace_from, grace_until = from_ms, NOW + grace_ms
  redis.call("HSET", K.control, "grace_from", from_ms, "grace_until", grace_until, "clock_at", NOW)
end

-- Notes a gap of more than gap_ms; returns how long it was, or 0. It is kept for the next look of a worker, as a claim
-- that is the first to find it tells nobody.
local function note_gap(gap_ms, grace_ms)
  local seen_at = tonumber(CONTROL[3] or NOW)
  if NOW - seen_at <= gap_ms then return 0 end
  give_grace(seen_at, grace_ms)
  redis.call("HSET", K.control, "untold_gap", NOW - seen_at)
  return NOW - seen_at
end

-- Whether a lease that is over is its holder's yet; then it ends with the grace.
local function spare(index, id, ended_at)
  if NOW >= grace_until or ended_at <= grace_from then return false end
  redis.call("ZADD", index, grace_until, id)
  return true
end
