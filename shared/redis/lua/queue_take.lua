-- Fragment: taking jobs out of the queues of a model, for claim_submit.lua.

local function promote()
  queue_unpark_due(A.model, A.k)
  local key = K.index("later:" .. A.model)
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", key, "-inf", NOW, "LIMIT", 0, 4 * A.k)) do
    local r = redis.call("HMGET", K.record("j", id), "tenant", "rank", "state")
    redis.call("ZREM", key, id)
    if r[3] == A.before then queue_push(A.model, r[1], id, r[2]) end
  end
end

-- Takes up to `count_max` jobs of one tenant. Returns how many are taken in all, why the turn must be the last, and how
-- many were looked at in vain.
local function take_of(tenant, vtime, count_max, taken)
  local queue, cost, stop, missed = K.queue(A.model, tenant), 0, nil, 0
  local popped = redis.call("ZPOPMIN", queue, count_max)
  for at = 1, #popped, 2 do
    local id, rank, job, last = popped[at], popped[at + 1], nil, nil
    if not stop then job, last = admissible(id, rank, taken) end
    stop = stop or job and over_cap(job, job.cost)
    if stop then
      redis.call("ZADD", queue, rank, id)
    elseif job and batch_pays(id, job, job.cost) then
      take(id, job)
      cost, taken, stop = cost + job.cost, taken + 1, last and "alone" or nil
    else
      missed = missed + 1
    end
  end
  queue_charge(A.model, tenant, vtime, cost)
  if stop == "tenant" then note_capped(tenant) end
  return taken, stop, missed
end

-- Tenants whose turns in this call are over, with their virtual times: too many of their jobs were looked at in vain
-- while others waited.
local misses, missed_of, benched = 0, {}, {}
local function note_missed(tenant, count_of)
  misses, missed_of[tenant] = misses + count_of, (missed_of[tenant] or 0) + count_of
  if missed_of[tenant] < 2 * A.k and misses < 3 * A.k then return end
  benched[tenant] = redis.call("ZSCORE", K.ready(A.model), tenant) or nil
  redis.call("ZREM", K.ready(A.model), tenant)
end

-- One job per tenant and turn, by virtual time; a tenant that is alone gets all turns at once. At most 4k jobs and
-- tenants are looked at: what is left comes with the next call, at once.
local function take_fresh(want)
  local taken, stop, looks = 0, nil, 0
  while taken < want and (not stop or stop == "tenant") and looks < 4 * A.k and left_alone < A.k do
    local ready = redis.call("ZRANGE", K.ready(A.model), 0, 1, "WITHSCORES")
    local tenant, before = ready[1], taken
    if not tenant then break end
    if tenant_paused(tenant) then -- its model was not known where it was paused
      queue_hold(A.model, tenant)
      looks = looks + 1
    else
      local most = ready[3] and 1 or math.min(want - taken, 4 * A.k - looks)
      local missed
      taken, stop, missed = take_of(tenant, tonumber(ready[2]), most, taken)
      looks = looks + math.max(taken - before + missed, 1)
      if missed > 0 and ready[3] then note_missed(tenant, missed) end
    end
  end
  for tenant, vtime in pairs(benched) do redis.call("ZADD", K.ready(A.model), vtime, tenant) end
  if stop == "account" then note_capped(nil) end
  return taken, stop
end
