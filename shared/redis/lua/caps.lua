-- Fragment of claim_submit.lua: a job is taken only if its whole hold fits under every cap that covers it.
-- A.caps: {account: [[window, limit]], any: [...] of each tenant, tenants: {NAME: [...]}}, or absent.
local CAPPED_MS, STOPPED_MS, WAIT_MS = 30000, 5000, 1000
local rooms, batches = {}, {}

-- The least room under the caps of a scope; read once per call, before its first hold is written.
local function room_of(scope, caps)
  if not rooms[scope] then
    local found = { room = math.huge }
    for _, cap in ipairs(caps or {}) do
      local room = cap[2] - used(A.currency, scope, cap[1])
      if room < found.room then found = { room = room, window = cap[1], limit = cap[2] } end
    end
    rooms[scope] = found
  end
  return rooms[scope]
end

local function account_room() return room_of("account:" .. A.account, A.caps and A.caps.account) end

local function tenant_room(tenant)
  return room_of("tenant:" .. tenant, A.caps and (A.caps.tenants[tenant] or A.caps.any))
end

-- nil, or which kind of scope has no room for the hold.
local function over_cap(job, hold)
  if not A.caps then return nil end
  if hold > account_room().room then return "account" end
  return hold > tenant_room(job.tenant).room and "tenant" or nil
end

local function use_room(job, hold)
  if A.caps then
    for _, found in ipairs({ account_room(), tenant_room(job.tenant) }) do found.room = found.room - hold end
  end
  local batch = job.batch and batches[K.batch(job.tenant, job.batch)]
  if batch then batch.room, batch.held = batch.room - hold, batch.held + hold end
end

local function batch_room(job)
  local key = K.batch(job.tenant, job.batch)
  if not batches[key] then
    local r = redis.call("HMGET", key, "stopped", "max_cost", "cost_micros", "held_micros", "doubt_micros")
    local holds = tonumber(r[4] or "0")
    batches[key] = { stopped = r[1], held = holds, room = r[2] and r[2] - (r[3] or 0) - (r[5] or 0) - holds
      or math.huge }
  end
  return batches[key]
end

-- Whether the job's batch may pay for it. While others of it hold money, it waits: some may come back; then it stops.
local function batch_pays(id, job, hold)
  if not job.batch then return true end
  local batch = batch_room(job)
  if not batch.stopped and hold <= batch.room then return true end
  local wait_ms = batch.stopped and STOPPED_MS or WAIT_MS
  if not batch.stopped and batch.held == 0 then
    batch_stop(job.tenant, job.batch, "max_cost")
    batch.stopped, wait_ms = "max_cost", STOPPED_MS
  end
  redis.call("ZADD", K.index("later:" .. A.model), NOW + wait_ms, id)
  soonest(wait_ms)
  return false
end

local function note_capped(tenant)
  local found = tenant and tenant_room(tenant) or account_room()
  local why = "cap|" .. found.window .. "|" .. string.format("%.0f", found.limit) .. "|" .. A.currency
  if tenant then return queue_park(A.model, tenant, NOW + CAPPED_MS, why) end
  redis.call("HSET", lane_key, "capped", why, "capped_until", NOW + CAPPED_MS)
  soonest(CAPPED_MS)
end
