#!lua flags=allow-oom
-- What is due, and how many hints to publish for it: per (stage, lane) at most min(workers, ceil(due / k))
-- outstanding, counted in a key with a short TTL that the task deletes before it reads. Also the sign of life of the
-- caller, and the election of one sweeper per second.
-- ARGV: 1 prefix, 2 now_ms or "", 3 worker name or "", 4 alive_ms, 5 hint_ttl_ms, 6 k, 7 sweep 0|1,
--   then per look 3: stage, lane or "", model or ""
-- Returns: workers alive, sweep now 0|1, then per look: hints to send, due, next_in_ms (-1: nothing waits)
--!include keys
--!include clock
local k = tonumber(ARGV[6])
if ARGV[3] ~= "" then redis.call("ZADD", K.workers, NOW, ARGV[3]) end
redis.call("ZREMRANGEBYSCORE", K.workers, "-inf", NOW - tonumber(ARGV[4]))
local workers = redis.call("ZCARD", K.workers) -- none: nobody would read a hint, and a starting worker looks by itself

local function waiting(name)
  local due = redis.call("ZCOUNT", K.index(name), "-inf", NOW)
  local first = redis.call("ZRANGE", K.index(name), 0, 0, "WITHSCORES")
  if not first[2] or first[2] == "inf" then return due, -1 end -- what is paused waits for a person
  return due, math.max(0, tonumber(first[2]) - NOW)
end

local function earlier(a, b)
  if a < 0 then return b end
  return b < 0 and a or math.min(a, b)
end

local function submit_waiting(lane, model)
  local due, next_in = waiting("later:" .. model)
  local expired, lease_in = waiting("submit:" .. lane)
  local rearmed, parked_in = waiting("parked:" .. model)
  due, next_in = due + expired + rearmed, earlier(earlier(next_in, lease_in), parked_in)
  for _, tenant in ipairs(redis.call("ZRANGE", K.ready(model), 0, 9)) do
    due, next_in = due + redis.call("ZCARD", K.queue(model, tenant)), 0
  end
  local closed = tonumber(redis.call("HGET", K.lane(lane), "closed_until") or "0") - NOW
  if closed > 0 then return expired, earlier(lease_in, math.max(next_in, closed)) end
  return due, next_in
end

local function outstanding(stage, lane, due)
  local key = K.hint(stage, lane)
  local wanted = math.min(workers, math.ceil(due / k))
  local sent = tonumber(redis.call("GET", key) or "0")
  if wanted <= sent then return 0 end
  redis.call("SET", key, wanted, "PX", ARGV[5])
  return wanted - sent
end

local sweep = 0
if ARGV[7] == "1" then
  for _, name in ipairs({ "expiring", "resubmit", "giving_up", "batches", "stalling", "stopping", "told" }) do
    if redis.call("ZCOUNT", K.index(name), "-inf", NOW) > 0 then sweep = 1 end
  end
  if sweep == 1 and not redis.call("SET", K.hint("sweep", ""), 1, "NX", "PX", 900) then sweep = 0 end
end
local out = { workers, sweep }
for at = 8, #ARGV, 3 do
  local stage, lane, model = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local due, next_in
  if stage == "submit" then
    due, next_in = submit_waiting(lane, model)
  else
    due, next_in = waiting(lane == "" and stage or stage .. ":" .. lane)
  end
  out[#out + 1] = due > 0 and outstanding(stage, lane, due) or 0
  out[#out + 1] = due
  out[#out + 1] = next_in
end
return out
