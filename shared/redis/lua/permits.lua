-- Fragment: GCRA, the generic cell rate algorithm (ITU-T I.371), on the server's clock in microseconds.
-- A rate is {key of the hash that keeps `tat`, interval_us (0: unlimited), burst, ahead_us}. Permits of the moments to
-- come may be given out up to ahead_us before; who gets one waits for its moment. So a claim that comes a little late
-- costs the rate nothing, and permits are never closer together than the rate allows.

-- `tat`, the theoretical arrival time. It is never further ahead than the rate allows, unless the clock was set back or
-- the rate was lower before.
local function arrival(rate)
  local most = NOW_US + rate.burst * rate.interval_us + rate.ahead_us
  local tat = tonumber(redis.call("HGET", rate.key, "tat") or "0")
  if tat <= most then return math.max(tat, NOW_US) end
  redis.call("HSET", rate.key, "tat", string.format("%.0f", most)) -- else it would keep its distance as time goes on
  return most
end

-- When the next permit's moment is, in us from now; not above 0 if it has come.
local function next_moment(rate, tat) return tat + (1 - rate.burst) * rate.interval_us - NOW_US end

-- How many permits the rate gives now, at most `want`; and the wait in ms for the next one.
local function permits_free(rate, want)
  if rate.interval_us == 0 then return want, 0 end
  local wait_us = next_moment(rate, arrival(rate)) - rate.ahead_us
  local free = math.floor(-wait_us / rate.interval_us) + 1
  return math.max(0, math.min(want, free)), math.max(0, math.ceil(wait_us / 1000))
end

-- Uses permits that permits_free has promised in this same script. Returns the wait in ms for the next one, long enough
-- to get several at once where they are close together; and the moment of the first, in us from now.
local function permits_take(rate, taken)
  if rate.interval_us == 0 then return 0, 0 end
  local before = arrival(rate)
  local tat = before + taken * rate.interval_us
  redis.call("HSET", rate.key, "tat", string.format("%.0f", tat))
  local wait_us = math.max(next_moment(rate, tat) - rate.ahead_us, rate.ahead_us / 2)
  return math.max(0, math.ceil(wait_us / 1000)), next_moment(rate, before)
end
