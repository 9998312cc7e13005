-- Fragment: may a queued job be taken now? For claim_submit.lua.

-- The job to take now, or nil; a suspect (its last holder died) runs alone, others wait for the next call.
local function admissible(id, taken)
  local r = redis.call("HMGET", K.record("j", id), "state", "suspect", "deadline_at", "tenant", "batch", "n", "est",
    "currency", "v")
  if r[1] ~= A.before then return nil end
  if is_newer(r[9]) then
    leave_alone(K.index("later:" .. A.model), id)
    soonest(1000)
    return nil
  end
  if r[3] and tonumber(r[3]) <= NOW then -- the sweep fails it as expired
    redis.call("ZADD", K.index("expiring"), r[3], id)
    return nil
  end
  local cost = A.price_micros * tonumber(r[6])
  local job = { tenant = r[4], batch = r[5] or nil, cost = cost, est = r[7], currency = r[8] }
  if r[2] ~= "1" then return job end
  if A.suspects == 1 and taken == 0 then return job, true end
  redis.call("ZADD", K.index("later:" .. A.model), NOW + 200, id)
  soonest(200)
  return nil
end
