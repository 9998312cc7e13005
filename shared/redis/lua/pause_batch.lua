#!lua flags=allow-oom
-- Pauses the submits of a batch by hand, or lets them go on; keeps who did it, when and why, and notes it in the audit.
-- Atomic because no job may be left aside by a batch that is not paused. Its jobs leave their queues as claims meet
-- them (queue_take.lua), or never enter (job_kinds.lua); a resume puts all of them back by their rank.
-- ARGV: 1 prefix, 2 now_ms or "", 3 tenant, 4 batch, 5 "1" pause | "0" go on, 6 who, 7 why, 8 "1": only say what it
--   would do, 9 the state of jobs that wait
-- Returns: {1 if it changes something else 0, jobs of the batch that wait} | {-1} no such batch | {-2} all have ended
--!include keys
--!include clock
--!include audit
--!include queue
local tenant, name, pause = ARGV[3], ARGV[4], ARGV[5] == "1"
local key, field = K.batch(tenant, name), "b|" .. tenant .. "|" .. name

-- Gives a model's jobs their places in the queue back.
local function put_back(model)
  local aside, queue = K.aside(model, tenant, name), K.queue(model, tenant)
  redis.call("HDEL", key, "aside:" .. model)
  if redis.call("EXISTS", aside) == 0 then return end -- all of them were cancelled, or expired
  if redis.call("EXISTS", queue) == 1 then
    redis.call("ZUNIONSTORE", queue, 2, queue, aside, "AGGREGATE", "MIN")
    redis.call("DEL", aside)
  else
    redis.call("RENAME", aside, queue)
  end
  if not redis.call("ZSCORE", parked_index(model), tenant) then queue_join(model, tenant) end
end

if redis.call("EXISTS", key) == 0 then return { -1 } end
local waiting = math.max(0, tonumber(redis.call("HGET", key, "n:" .. ARGV[9]) or "0"))
if (redis.call("HEXISTS", K.paused, field) == 1) == pause then return { 0, waiting } end
local h = redis.call("HMGET", key, "sealed", "done", "total")
if pause and h[1] == "1" and h[2] == h[3] then return { -2 } end
if ARGV[8] == "1" then return { 1, waiting } end
if pause then
  redis.call("HSET", K.paused, field, cjson.encode({ at = NOW, by = ARGV[6], why = ARGV[7] }))
else
  redis.call("HDEL", K.paused, field)
  for _, each in ipairs(redis.call("HKEYS", key)) do
    if each:sub(1, 6) == "aside:" then put_back(each:sub(7)) end
  end
end
audit_note(ARGV[6], pause and "pause" or "resume", "batch " .. name .. " of " .. tenant, ARGV[7], nil, waiting)
return { 1, waiting }
