-- Fragment: counts of a batch, and its one completion event.
-- CTX: {delivery = initial delivery state, backlog = state that backlog caps count, failed = state that failure caps
--   count, completed, stalled = event names, retain_batch_ms, stalled_ms}

-- A later batch may have the same name, once this one's time is over: its birth is part of the id.
local function batch_event(tenant, name, event)
  local born = redis.call("HGET", K.batch(tenant, name), "created_at") or ""
  local id = "evt_" .. redis.sha1hex(tenant .. ":" .. name .. ":" .. event .. ":" .. born):sub(1, 26)
  delivery_create(id, event, CTX.delivery, tenant, { "batch", name })
end

-- Its retention starts when its jobs have ended and none holds money: else a cancelled or given up job's hold would be
-- given back to nothing, or to another batch that was begun under its name.
local function batch_expire(tenant, name)
  redis.call("PEXPIRE", K.batch(tenant, name), CTX.retain_batch_ms)
  redis.call("PEXPIRE", K.batch_jobs(tenant, name), CTX.retain_batch_ms)
end

-- Fires completion once, when sealed and every job is terminal; arms the stall timer when only unknown jobs are left.
local function batch_check(tenant, name)
  local key, member = K.batch(tenant, name), tenant .. ":" .. name
  local h = redis.call("HMGET", key, "sealed", "total", "done", "parked", "completed_at", "webhook",
    "max_failed_ppm", "n:" .. CTX.failed, "held_micros")
  local total, done, parked = tonumber(h[2] or "0"), tonumber(h[3] or "0"), tonumber(h[4] or "0")
  if h[7] and tonumber(h[8] or "0") * 1000000 > tonumber(h[7]) * total then batch_stop(tenant, name, "max_failed") end
  if h[1] ~= "1" then return end
  if done == total then -- also once more, after a redrive of its jobs
    redis.call("HDEL", K.paused, "b|" .. tenant .. "|" .. name) -- nothing is left to resume
    if tonumber(h[9] or "0") == 0 then batch_expire(tenant, name) end
  end
  if h[5] then return end
  if done == total then
    redis.call("HSET", key, "completed_at", NOW)
    redis.call("ZREM", K.index("stalling"), member)
    if h[6] then batch_event(tenant, name, CTX.completed) end
  elseif parked > 0 and done + parked == total then
    redis.call("ZADD", K.index("stalling"), "NX", NOW + CTX.stalled_ms, member)
  else
    redis.call("ZREM", K.index("stalling"), member)
  end
end

local touched = {} -- batches to check once the tally is written
local function batch_touch(job) touched[K.batch(job.tenant, job.batch)] = { job.tenant, job.batch } end

-- Moves one job of the batch between states. park: +1 into unknown, -1 out of it; done: 1 when it ends.
local function batch_move(job, before, after, park, done, images)
  if not job.batch then return end
  local key = K.batch(job.tenant, job.batch)
  count(key, "n:" .. before, -1)
  count(key, "n:" .. after, 1)
  count(key, "parked", park)
  count(key, "done", done)
  count(key, "images", images)
  if done == 1 or park ~= 0 then batch_touch(job) end
end

-- What one of its jobs cost. Billed in a second currency, its sum is of none: "".
local function batch_cost(job, micros)
  local key = job.batch and K.batch(job.tenant, job.batch)
  if not key or micros == 0 or is_of_past(key) then return end
  count(key, "cost_micros", micros)
  local known = redis.call("HGET", key, "currency")
  if known ~= job.currency then redis.call("HSET", key, "currency", known and "" or job.currency) end
end

local function batch_check_touched()
  for _, batch in pairs(touched) do batch_check(batch[1], batch[2]) end
end
