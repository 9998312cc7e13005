#!lua flags=allow-oom
-- Deletes all that is kept of jobs that have ended, before their time, and notes who did it. The ledger, the counts and
-- what was stored stay. Atomic because a job must be gone whole, or not at all.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {who, why, words, dry true|false, schema, ends: [states], open: state of a
--   delivery that goes on, earlier: audit entry of the command's last call or "", done: by its calls so far},
--   then job ids
-- Returns the audit entry, then per job: 1 gone (dry: would be) | -1 no such job | 2 it has not ended | 3 its bill is
--   open | 4 money is held | 5 an event of it is still being delivered | 6 a later version's
--!include keys
--!include clock
--!include audit
local A = cjson.decode(ARGV[3])
local ends = {}
for _, state in ipairs(A.ends) do ends[state] = true end

local function events_of(id, count)
  local keys = {}
  for nr = 1, tonumber(count or "0") do keys[nr] = K.record("d", "evt_" .. id:gsub("^job_", "") .. "_" .. nr) end
  return keys
end

local function refusal(job, events)
  if not job.state then return -1 end
  if tonumber(job.v or "1") > A.schema then return 6 end
  if not ends[job.state] then return 2 end
  if job.accounting then return 3 end
  if tonumber(job.hold or "0") > 0 then return 4 end
  for _, key in ipairs(events) do
    if redis.call("HGET", key, "state") == A.open then return 5 end
  end
  return nil
end

-- Frees the idempotency key only if it is this job's: another may have taken it since.
local function free_key(id, job)
  if not job.idempotency then return end
  local key = K.idempotency(job.tenant, job.idempotency)
  local owner = redis.call("GET", key)
  if owner and owner:sub(1, #id + 1) == id .. ":" then redis.call("DEL", key) end
end

local results, done = { A.earlier }, A.done
for at = 4, #ARGV do
  local id, job = ARGV[at], {}
  local names = { "state", "accounting", "hold", "events", "tenant", "idempotency", "v" }
  for nr, value in ipairs(redis.call("HMGET", K.record("j", id), unpack(names))) do job[names[nr]] = value or nil end
  local events = events_of(id, job.events)
  local result = refusal(job, events) or 1
  if result == 1 and not A.dry then
    free_key(id, job)
    redis.call("DEL", K.record("j", id), K.spec(id), K.detail(id), K.timeline(id), unpack(events))
    for _, name in ipairs({ "told", "unknown", "expiring" }) do redis.call("ZREM", K.index(name), id) end
    done = done + 1
  end
  results[#results + 1] = result
end
if done > A.done then results[1] = audit_note(A.who, "purge", "jobs: " .. A.words, A.why, A.earlier, done) end
return results
