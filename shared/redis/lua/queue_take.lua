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

local function take(id, job)
  commit_move(job, A.before, A.after, A.before)
  job.lane, job.currency = A.lane, A.currency
  hand_over(id, 0, { "state", A.after, "lane", A.lane, "claimed_at", NOW, "hold", job.cost, "held_day", TODAY,
    "currency", A.currency })
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

-- Takes up to `count` jobs of one tenant. Returns how many are taken in all, and why the turn must be the last.
local function take_of(tenant, vtime, count_max, taken)
  local queue, cost, stop = K.queue(A.model, tenant), 0, nil
  local popped = redis.call("ZPOPMIN", queue, count_max)
  for at = 1, #popped, 2 do
    local id, job, last = popped[at], nil, nil
    if not stop then job, last = admissible(id, taken) end
    stop = stop or job and over_cap(job, job.cost)
    if stop then
      redis.call("ZADD", queue, popped[at + 1], id)
    elseif job and batch_pays(id, job, job.cost) then
      take(id, job)
      cost, taken, stop = cost + job.cost, taken + 1, last and "alone" or nil
    end
  end
  queue_charge(A.model, tenant, vtime, cost)
  if stop == "tenant" then note_capped(tenant) end
  return taken, stop
end

-- One job per tenant and turn, by virtual time; a tenant that is alone gets all turns at once.
local function take_fresh(want)
  local taken, stop, turns = 0, nil, 0
  while taken < want and (not stop or stop == "tenant") and turns < 4 * A.k and left_alone < A.k do
    local ready = redis.call("ZRANGE", K.ready(A.model), 0, 1, "WITHSCORES")
    if not ready[1] then break end
    turns = turns + 1
    taken, stop = take_of(ready[1], tonumber(ready[2]), ready[3] and 1 or want - taken, taken)
  end
  if stop == "account" then note_capped(nil) end
  return taken, stop == "account" or stop == "tenant"
end
