#!lua flags=allow-oom
-- Pauses the submits of a tenant by hand, or lets them go on; keeps who did it, when and why, and notes it.
-- Atomic because the pause, the parked queues and the note belong together. Asking for what is so changes
-- nothing. Queues of models that the caller does not know are parked by the claim that meets them.
-- ARGV: 1 prefix, 2 now_ms or "", 3 tenant, 4 "1" pause | "0" go on, 5 who, 6 why, 7 "1": only say what it would do,
--   8 the state of jobs that wait, then models
-- Returns: {1 if it changes something else 0, jobs of the tenant that wait}
--!include keys
--!include clock
--!include audit
--!include queue
local tenant, pause, field = ARGV[3], ARGV[4] == "1", "t|" .. ARGV[3]
local waiting = math.max(0, tonumber(redis.call("HGET", K.counts, tenant .. "|" .. ARGV[8]) or "0"))
if (redis.call("HEXISTS", K.paused, field) == 1) == pause then return { 0, waiting } end
if ARGV[7] == "1" then return { 1, waiting } end
if pause then
  redis.call("HSET", K.paused, field, cjson.encode({ at = NOW, by = ARGV[5], why = ARGV[6] }))
  for at = 9, #ARGV do
    if redis.call("EXISTS", K.queue(ARGV[at], tenant)) == 1 then queue_hold(ARGV[at], tenant) end
  end
else
  redis.call("HDEL", K.paused, field)
  for _, place in ipairs(redis.call("HKEYS", K.parked)) do
    local model, parked = place:match("^([^|]*)|(.*)$")
    if parked == tenant then
      redis.call("ZREM", parked_index(model), tenant)
      redis.call("HDEL", K.parked, place)
      if redis.call("EXISTS", K.queue(model, tenant)) == 1 then queue_join(model, tenant) end
    end
  end
end
audit_note(ARGV[5], pause and "pause" or "resume", "tenant " .. tenant, ARGV[6], nil, waiting)
return { 1, waiting }
