-- Fragment: what an attempt to copy tells of the object store. Not guarded: it is true whatever became of the job.
-- Kept in the control hash, because every claim of submit reads that anyway; gone with the first copy that succeeds.

local STORE_FIELDS = { "store_failing", "store_failing_at", "store_failing_job", "store_failures", "store_stopped_at",
  "store_probe_at", "store_probed_at" }
local FAILURES_MIN = 3 -- of jobs that take turns: one job that cannot be put for a reason of its own stops nobody
local SELDOM_MS = 600000 -- a probe goes this often, even while others still fail: those may have reasons of their own
local store_is_well = false

-- kind: ok | denied | full | missing | unavailable. What needs an operator stops submits at once, what may pass by
-- itself after after_ms; then one job goes when nothing was told for probe_ms.
local function store_note(id, kind, after_ms, probe_ms)
  if kind == "ok" then
    if not store_is_well then redis.call("HDEL", K.control, unpack(STORE_FIELDS)) end
    store_is_well = true -- known for the rest of this call
    return
  end
  store_is_well = false
  local r = redis.call("HMGET", K.control, "store_failing_at", "store_failing_job", "store_failures",
    "store_stopped_at", "store_probed_at")
  local since, failures, stopped_at = tonumber(r[1] or NOW), tonumber(r[3] or "0"), r[4]
  if r[2] ~= id then failures = failures + 1 end
  if not stopped_at and failures >= FAILURES_MIN and (kind ~= "unavailable" or NOW - since >= after_ms) then
    stopped_at = NOW
    redis.call("HSET", K.control, "store_stopped_at", NOW)
  end
  local seldom_at = tonumber(r[5] or stopped_at or NOW) + SELDOM_MS
  redis.call("HSET", K.control, "store_failing", kind, "store_failing_at", string.format("%.0f", since),
    "store_failing_job", id, "store_failures", failures,
    "store_probe_at", string.format("%.0f", math.min(NOW + probe_ms, seldom_at)))
end
