-- Fragment: weighted fair queueing of tenants inside a model.

local function parked_index(model) return K.index("parked:" .. model) end

-- What people paused, of tenants and batches (keys.py: `paused`). Mostly nothing is: then one read says so.
local any_paused = redis.call("HLEN", K.paused) > 0
local function tenant_paused(tenant) return any_paused and redis.call("HEXISTS", K.paused, "t|" .. tenant) == 1 end
local function batch_paused(tenant, batch)
  return any_paused and redis.call("HEXISTS", K.paused, "b|" .. tenant .. "|" .. batch) == 1
end

-- Takes a tenant out of the turns until `at_ms`, with the reason: no claim looks at its queue in the meantime.
local function queue_park(model, tenant, at_ms, reason)
  redis.call("ZREM", K.ready(model), tenant)
  redis.call("ZADD", parked_index(model), at_ms, tenant)
  redis.call("HSET", K.parked, model .. "|" .. tenant, reason)
end

-- A paused tenant waits for a person: no time and nothing that is given back re-arms it.
local function queue_hold(model, tenant) queue_park(model, tenant, "+inf", "paused") end

local function queue_join(model, tenant)
  if tenant_paused(tenant) then return queue_hold(model, tenant) end
  local vtime = redis.call("HGET", K.control, "vtime:" .. model) or "0"
  redis.call("ZADD", K.ready(model), "NX", vtime, tenant)
end

-- Puts a job into its tenant's queue; a tenant that joins starts at the present virtual time, unless it is parked.
local function queue_push(model, tenant, id, rank)
  redis.call("ZADD", K.queue(model, tenant), rank, id)
  if not redis.call("ZSCORE", parked_index(model), tenant) then queue_join(model, tenant) end
end

-- Lets a tenant that waits for a cap be looked at again at once: something was given back.
local function queue_rearm(model, tenant)
  local at_ms = redis.call("ZSCORE", parked_index(model), tenant)
  if at_ms and at_ms ~= "inf" then redis.call("ZADD", parked_index(model), NOW, tenant) end
end

-- Gives those whose time has come their turns back.
local function queue_unpark_due(model, limit)
  for _, tenant in ipairs(redis.call("ZRANGEBYSCORE", parked_index(model), "-inf", NOW, "LIMIT", 0, limit)) do
    redis.call("ZREM", parked_index(model), tenant)
    redis.call("HDEL", K.parked, model .. "|" .. tenant)
    if redis.call("EXISTS", K.queue(model, tenant)) == 1 then queue_join(model, tenant) end
  end
end

-- Takes a job out of where it waits for its turn: its tenant's queue, or what is set aside of its paused batch.
local function queue_remove(job, id)
  local key = K.queue(job.model, job.tenant)
  redis.call("ZREM", key, id)
  if job.batch then redis.call("ZREM", K.aside(job.model, job.tenant, job.batch), id) end
  if redis.call("EXISTS", key) == 0 then redis.call("ZREM", K.ready(job.model), job.tenant) end
end

-- Charges a tenant's virtual time for work of the given cost (micros; weight 1).
local function queue_charge(model, tenant, vtime, cost)
  redis.call("HSET", K.control, "vtime:" .. model, string.format("%.0f", vtime))
  if redis.call("EXISTS", K.queue(model, tenant)) == 1 then
    redis.call("ZADD", K.ready(model), vtime + math.max(cost, 1), tenant)
  else
    redis.call("ZREM", K.ready(model), tenant)
  end
end
