-- Fragment: leases of the submit stage, for claim_submit.lua: taken fresh, or over from a dead holder.

local out = {}

-- Takes the lease, and gives the entry with its record's fields; A.fields starts with `epoch`.
local function hand_over(id, expired, changes)
  local key = K.record("j", id)
  local values = redis.call("HMGET", key, unpack(A.fields))
  values[1] = tostring(tonumber(values[1] or "0") + 1)
  redis.call("HSET", key, "epoch", values[1], "leased", A.worker, unpack(changes))
  redis.call("ZADD", held, NOW + A.lease_ms, id)
  out[#out + 1] = { id, expired, values, redis.call("GET", K.spec(id)) or "", 0 }
end

-- Tells the last `taken` entries when their permits' moments are.
local function give_moments(taken, first_us, interval_us)
  for at = 1, taken do out[#out - taken + at][5] = math.max(0, first_us + (at - 1) * interval_us) end
end

local function take_expired()
  local over = redis.call("ZRANGEBYSCORE", held, "-inf", NOW, "WITHSCORES", "LIMIT", 0, A.k)
  for at = 1, #over, 2 do
    local id = over[at]
    local r = redis.call("HMGET", K.record("j", id), "state", "v")
    if not r[1] then
      redis.call("ZREM", held, id)
    elseif is_newer(r[2]) then
      leave_alone(held, id)
    elseif not spare(held, id, tonumber(over[at + 1])) then
      hand_over(id, 1, {})
    end
  end
end
