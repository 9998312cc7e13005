#!lua flags=allow-oom
-- Puts jobs back that had ended, each whole or not at all, each with its own result, and notes who did it and why.
-- Atomic because record, queue, counts, batch and retention must agree, and an audit belongs to what was done.
-- ARGV: 1 prefix, 2 now_ms or "", 3 context JSON (see batch.lua) with {who, why, words, dry true|false, guarded:
--   [fields], earlier: audit entry of the command's last call or "", done, again, micros: of its calls so far, and what
--   redrive_gate.lua needs}, 4 transitions: JSON array of {id, was: {guarded field: value or ""}, v: [variant], again?:
--   micros that may be paid a second time}; a variant is that of apply_transitions.lua
-- Returns the audit entry, then per job: 1 done (dry: would be) | 0 it changed meanwhile | -1 no such job
--   | 3 tenant backlog | 4 backlog | 5 batch stopped | 6 over a cap | 7 no record of its batch | 8 a later version's
--!include keys
--!include clock
local CTX = cjson.decode(ARGV[3])
--!include tally
--!include queue
--!include calendar
--!include usage
--!include money
--!include delivery
--!include endpoint
--!include batch_stop
--!include batch
--!include guard
--!include transition
--!include audit
--!include redrive_gate

local function refusal(t, job)
  if not job.state then return -1 end
  if tonumber(job.v or "1") > (CTX.schema or 1) then return 8 end
  for nr, value in ipairs(redis.call("HMGET", K.record("j", t.id), unpack(CTX.guarded))) do
    if (value or "") ~= t.was[CTX.guarded[nr]] then return 0 end
  end
  if job.batch and redis.call("EXISTS", K.batch(job.tenant, job.batch)) == 0 then return 7 end
  return t.v[1].q and queue_refusal(job)
end

-- What was to go with the end stays again: the job's own keys, and those of its batch.
local function keep(t, job)
  for _, key in ipairs({ K.record("j", t.id), K.spec(t.id), K.detail(t.id), K.timeline(t.id) }) do
    redis.call("PERSIST", key)
  end
  if job.idempotency then redis.call("PERSIST", K.idempotency(job.tenant, job.idempotency)) end
  if not job.batch then return end
  redis.call("PERSIST", K.batch(job.tenant, job.batch))
  redis.call("PERSIST", K.batch_jobs(job.tenant, job.batch))
  local code = t.was.error_code
  if code ~= "" then count(K.batch(job.tenant, job.batch), "e:" .. code, -1) end
end

local results, done, again, micros = { CTX.earlier }, CTX.done, CTX.again, CTX.micros
for at, t in ipairs(cjson.decode(ARGV[4])) do
  t.k = "j"
  local job = read_record(t.k, t.id)
  results[at + 1] = refusal(t, job) or 1
  if results[at + 1] == 1 and not CTX.dry then
    apply(t, job, t.v[1])
    keep(t, job)
    done = done + 1
    if t.again then again, micros = again + 1, micros + t.again end
  end
end
write_tally()
if done > CTX.done then
  local paid = again > 0 and string.format("; %d to be paid again (at most %.0f micros)", again, micros) or ""
  results[1] = audit_note(CTX.who, "redrive", "jobs: " .. CTX.words .. paid, CTX.why, CTX.earlier, done)
end
return results
