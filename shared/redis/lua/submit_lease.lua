-- Fragment: leases of the submit stage, for claim_submit.lua: taken fresh, or over from a dead holder.

local out = {}

-- Takes the lease, and gives the entry with its record's fields; A.fields starts with `epoch`.
local function hand_over(id, expired, changes)
  local key = K.record("j", id)
  local values = redis.call("HMGET", key, unpack(A.fields))
  values[1] = tostring(tonumber(values[1] or "0") + 1)
  redis.call("HSET", key, "epoch", values[1], "leased", A.worker, unpack(changes))
  redis.call("ZADD", held, NOW + A.lease_ms, id)
  out[#out + 1] = { id, expired, values, redis.call("GET", K.spec(id)) or "" }
end

local function take_expired()
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", held, "-inf", NOW, "LIMIT", 0, A.k)) do
    if redis.call("EXISTS", K.record("j", id)) == 0 then
      redis.call("ZREM", held, id)
    else
      hand_over(id, 1, {})
    end
  end
end
