-- Fragment of redrive_jobs.lua: what a job that goes back to the queue must fit into. CTX: tenants: {NAME: {caps:
-- [[window, limit, currency]]}}, max_backlog, max_tenant_backlog. All rooms shrink with each job of the call.

local counts = redis.call("HMGET", K.counts, "*|" .. CTX.backlog)
local room, tenant_rooms, cap_rooms = CTX.max_backlog - tonumber(counts[1] or "0"), {}, {}

local function tenant_room(tenant)
  if not tenant_rooms[tenant] then
    local queued = redis.call("HGET", K.counts, tenant .. "|" .. CTX.backlog) or "0"
    tenant_rooms[tenant] = CTX.max_tenant_backlog - tonumber(queued)
  end
  return tenant_rooms[tenant]
end

-- What is left under the tenant's caps that reject: spent, held and committed count, as at the door.
local function cap_room(tenant, currency)
  local key = tenant .. "|" .. currency
  if cap_rooms[key] then return cap_rooms[key] end
  local least = math.huge
  local queued = tonumber(redis.call("HGET", K.usage, committed_field(currency, tenant)) or "0")
  for _, cap in ipairs(CTX.caps[tenant] or {}) do
    if cap[3] == currency then
      least = math.min(least, cap[2] - used(currency, "tenant:" .. tenant, cap[1]) - queued)
    end
  end
  cap_rooms[key] = least
  return least
end

-- nil, or the refusal: 3 tenant backlog | 4 backlog | 5 batch stopped | 6 over a cap
local function queue_refusal(job)
  if job.batch and redis.call("HEXISTS", K.batch(job.tenant, job.batch), "stopped") == 1 then return 5 end
  if tenant_room(job.tenant) <= 0 then return 3 end
  if room <= 0 then return 4 end
  if job.est and tonumber(job.est) > cap_room(job.tenant, currency_of_est(job)) then return 6 end
  room, tenant_rooms[job.tenant] = room - 1, tenant_rooms[job.tenant] - 1
  if job.est then
    local key = job.tenant .. "|" .. currency_of_est(job)
    cap_rooms[key] = cap_rooms[key] - tonumber(job.est)
  end
  return nil
end
