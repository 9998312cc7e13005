-- Fragment: GCRA, the generic cell rate algorithm (ITU-T I.371), on the server's clock in microseconds.

-- `tat`, the theoretical arrival time kept in hash `key`. It is never further ahead than the burst allows, unless the
-- clock was set back or the rate was lower before.
local function arrival(key, interval_us, burst)
  local tat, most = tonumber(redis.call("HGET", key, "tat") or "0"), NOW_US + burst * interval_us
  if tat <= most then return math.max(tat, NOW_US) end
  redis.call("HSET", key, "tat", string.format("%.0f", most)) -- else it would keep its distance as time goes on
  return most
end

-- How many permits the rate gives now, at most `want`; and the wait in ms for the next one.
-- interval_us 0 means unlimited.
local function permits_free(key, interval_us, burst, want)
  if interval_us == 0 then return want, 0 end
  local tat = arrival(key, interval_us, burst)
  local free = math.floor((NOW_US + burst * interval_us - tat) / interval_us)
  local wait_ms = math.ceil((tat + interval_us - burst * interval_us - NOW_US) / 1000)
  return math.max(0, math.min(want, free)), math.max(0, wait_ms)
end

-- Uses permits that permits_free has promised in this same script; returns the wait in ms for the next one.
local function permits_take(key, interval_us, burst, taken)
  if interval_us == 0 then return 0 end
  local tat = arrival(key, interval_us, burst) + taken * interval_us
  redis.call("HSET", key, "tat", string.format("%.0f", tat))
  return math.max(0, math.ceil((tat + interval_us - burst * interval_us - NOW_US) / 1000))
end
