-- Fragment: the periods of caps, in UTC by the server's clock, and the counters of what was used in them.
local TODAY = math.floor(NOW / 86400000)
local WINDOWS = { "day", "month", "total" }

-- YYYYMM of a day since 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local leaps = math.floor(doe / 1460) - math.floor(doe / 36524) + math.floor(doe / 146096)
  local yoe = math.floor((doe - leaps) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 100 + month
end

local function period(window, day)
  if window == "total" then return "t" end
  if window == "day" then return "d" .. day end
  return "m" .. month_of(day)
end

-- scope: "tenant:NAME" or "account:NAME"
local function usage_field(currency, scope, window, day)
  return currency .. "|" .. scope .. "|" .. period(window, day)
end

local function used(currency, scope, window)
  return tonumber(redis.call("HGET", K.usage, usage_field(currency, scope, window, TODAY)) or "0")
end

-- What the jobs of an account hold now.
local function held_field(currency, account) return currency .. "|account:" .. account .. "|h" end

-- What the queued jobs of a tenant are going to cost at most.
local function committed_field(currency, tenant) return currency .. "|tenant:" .. tenant .. "|q" end
