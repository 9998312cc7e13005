-- Fragment: whether a queued job may be taken now, and taking it, for queue_take.lua.

local function take(id, job)
  commit_move(job, A.before, A.after, A.before)
  local changes = { "state", A.after, "lane", A.lane, "claimed_at", NOW, "hold", job.cost, "held_day", TODAY,
    "currency", A.currency }
  if job.est and job.currency ~= A.currency and not job.est_currency then
    changes[#changes + 1] = "est_currency"
    changes[#changes + 1] = job.currency
  end
  job.lane, job.currency = A.lane, A.currency
  hand_over(id, 0, changes)
  redis.call("ZADD", K.slots(A.lane), "+inf", id)
  money_hold(job, id, job.cost)
  use_room(job, job.cost)
  count_move(job.tenant, A.before, A.after, A.before)
  if job.batch then
    count(K.batch(job.tenant, job.batch), "n:" .. A.before, -1)
    count(K.batch(job.tenant, job.batch), "n:" .. A.after, 1)
  end
  redis.call("RPUSH", K.timeline(id), NOW .. "|" .. A.after .. "|" .. A.worker)
end

-- Where the jobs of a batch wait while it is paused, or false; asked once per batch and call.
local asides = {}
local function aside_of(tenant, batch)
  local key = K.batch(tenant, batch)
  if asides[key] == nil then
    asides[key] = batch_paused(tenant, batch) and K.aside(A.model, tenant, batch)
    if asides[key] then redis.call("HSET", key, "aside:" .. A.model, 1) end
  end
  return asides[key]
end

-- Whether a pause of the job or of its batch holds it back. It leaves the queue, so that no claim looks at it again:
-- its resume pushes it, or the batch's puts back what is aside.
local function set_aside(id, rank, tenant, batch, paused_at)
  if paused_at then return true end
  local aside = any_paused and batch and aside_of(tenant, batch)
  if aside then redis.call("ZADD", aside, rank, id) end
  return aside
end

-- The job to take now, or nil; a suspect (its last holder died) runs alone, others wait for the next call.
local function admissible(id, rank, taken)
  local r = redis.call("HMGET", K.record("j", id), "state", "suspect", "deadline_at", "tenant", "batch", "n", "est",
    "currency", "paused_at", "v", "est_currency")
  if r[1] ~= A.before then return nil end
  if is_newer(r[10]) then
    leave_alone(K.index("later:" .. A.model), id)
    soonest(1000)
    return nil
  end
  if r[3] and tonumber(r[3]) <= NOW then -- the sweep fails it as expired
    redis.call("ZADD", K.index("expiring"), r[3], id)
    return nil
  end
  if set_aside(id, rank, r[4], r[5], r[9]) then return nil end
  local cost = A.price_micros * tonumber(r[6])
  local job = { tenant = r[4], batch = r[5] or nil, cost = cost, est = r[7], currency = r[8],
    est_currency = r[11] }
  if r[2] ~= "1" then return job end
  if A.suspects == 1 and taken == 0 then return job, true end
  redis.call("ZADD", K.index("later:" .. A.model), NOW + 200, id)
  soonest(200)
  return nil
end
