#!lua flags=allow-oom
-- Pauses single jobs that wait, or lets them go on, and notes it in the audit, with how many.
-- Atomic because a job out of its queue must say who paused it. One that waits for a time stays there until then.
-- ARGV: 1 prefix, 2 now_ms or "", 3 "1" pause | "0" go on, 4 who, 5 why, 6 "1": only say what it would do,
--   7 the state of jobs that wait, 8 which jobs, for the audit, then ids
-- Returns per job: 1 changes | 0 is so already | -1 missing | -2 in another state
--!include keys
--!include clock
--!include audit
--!include queue
local pause, who, why = ARGV[3] == "1", ARGV[4], ARGV[5]

local function hold(job, id)
  redis.call("HSET", K.record("j", id), "paused_at", NOW, "paused_by", who, "paused_why", why)
  redis.call("ZADD", K.index("paused"), NOW, id)
  queue_remove(job, id)
end

local function let_go(job, id)
  redis.call("HDEL", K.record("j", id), "paused_at", "paused_by", "paused_why")
  redis.call("ZREM", K.index("paused"), id)
  if redis.call("ZSCORE", K.index("later:" .. job.model), id) then return end
  queue_push(job.model, job.tenant, id, job.rank)
end

local function change(id)
  local r = redis.call("HMGET", K.record("j", id), "state", "paused_at", "model", "tenant", "batch", "rank")
  if not r[1] then return -1 end
  if r[1] ~= ARGV[7] then return -2 end
  if (r[2] and true or false) == pause then return 0 end
  if ARGV[6] == "1" then return 1 end
  local job = { model = r[3], tenant = r[4], batch = r[5] or nil, rank = r[6] }
  if pause then hold(job, id) else let_go(job, id) end
  local note = (pause and "paused by " or "resumed by ") .. who .. (why ~= "" and ": " .. why or "")
  redis.call("RPUSH", K.timeline(id), NOW .. "|" .. r[1] .. "|" .. note)
  return 1
end

local results, changed = {}, 0
for at = 9, #ARGV do
  results[#results + 1] = change(ARGV[at])
  if results[#results] == 1 then changed = changed + 1 end
end
if changed > 0 and ARGV[6] ~= "1" then
  audit_note(who, pause and "pause" or "resume", ARGV[8], why, nil, changed)
end
return results
