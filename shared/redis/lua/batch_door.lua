-- Fragment of enqueue_jobs.lua: whether the batch takes jobs, and what it learns of those that came.

local present = in_batch and redis.call("HMGET", batch_key, "sealed", "stopped", "created_at") or {}
local sealed = present[1] == "1" or present[2]
local paused = in_batch and batch_paused(H.tenant, H.batch)

-- Its caps are those of its first chunk; a later one may repeat them or say nothing.
local function other_caps()
  if not present[3] then return false end
  for field, value in pairs(H.batch_caps) do
    if redis.call("HGET", batch_key, field) ~= value then return true end
  end
  return false
end
local misfit = in_batch and other_caps()

local function batch_join(accepted)
  if not in_batch or sealed or misfit or (#accepted == 0 and not present[3]) then return end
  redis.call("HSETNX", batch_key, "created_at", NOW)
  if H.batch_webhook ~= "" then redis.call("HSETNX", batch_key, "webhook", H.batch_webhook) end
  for field, value in pairs(H.batch_caps) do redis.call("HSETNX", batch_key, field, value) end
  redis.call("ZADD", K.index("batches"), NOW + H.idle_seal_ms, H.tenant .. ":" .. H.batch)
  if #accepted == 0 then return end
  redis.call("HINCRBY", batch_key, "total", #accepted)
  redis.call("HINCRBY", batch_key, "n:" .. H.state, #accepted)
  redis.call("RPUSH", K.batch_jobs(H.tenant, H.batch), unpack(accepted))
end
