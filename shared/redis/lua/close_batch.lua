#!lua flags=allow-oom
-- Seals a batch (no more jobs; completion fires if all are terminal), or reports it stalled, each once.
-- ARGV: 1 prefix, 2 now_ms or "", 3 context JSON (see batch.lua), 4 tenant, 5 name, 6 "seal" | "stall"
-- Returns 1 done, 0 nothing to do, -1 no such batch
--!include keys
--!include clock
local CTX = cjson.decode(ARGV[3])
--!include tally
--!include delivery
--!include batch_stop
--!include batch
local key, member = K.batch(ARGV[4], ARGV[5]), ARGV[4] .. ":" .. ARGV[5]
if redis.call("EXISTS", key) == 0 then
  redis.call("ZREM", K.index("batches"), member)
  redis.call("ZREM", K.index("stalling"), member)
  return -1
end
if ARGV[6] == "stall" then
  redis.call("ZREM", K.index("stalling"), member)
  if redis.call("HSETNX", key, "stalled_at", NOW) == 0 then return 0 end
  if redis.call("HEXISTS", key, "webhook") == 1 then batch_event(ARGV[4], ARGV[5], CTX.stalled) end
  return 1
end
redis.call("ZREM", K.index("batches"), member)
if redis.call("HGET", key, "sealed") == "1" then return 0 end
redis.call("HSET", key, "sealed", 1, "sealed_at", NOW)
batch_check(ARGV[4], ARGV[5])
return 1
