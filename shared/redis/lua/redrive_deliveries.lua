#!lua flags=allow-oom
-- Makes deliveries pending again that had ended without an acknowledgement, under the same ids, and notes who did it.
-- Atomic because state, due time and retention must agree, and an audit belongs to what was done.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {who, why, words, dry true|false, before: [states], after: state,
--   clear: [fields], earlier: audit entry of the command's last call or "", done: by its calls so far}, then event ids
-- Returns the audit entry, then per id: 1 done (dry: would be) | 0 in another state | -1 no such delivery | 2 its job
--   or batch is gone
--!include keys
--!include clock
--!include audit
local A = cjson.decode(ARGV[3])
local before = {}
for _, state in ipairs(A.before) do before[state] = true end

local function refusal(key)
  local d = redis.call("HMGET", key, "state", "job", "batch", "tenant")
  if not d[1] then return -1 end
  if not before[d[1]] then return 0 end
  local subject = d[3] and K.batch(d[4], d[3]) or K.record("j", d[2])
  return redis.call("EXISTS", subject) == 0 and 2 or nil
end

local results, done = { A.earlier }, A.done
for at = 4, #ARGV do
  local id, key = ARGV[at], K.record("d", ARGV[at])
  local result = refusal(key) or 1
  if result == 1 and not A.dry then
    redis.call("HSET", key, "state", A.after, "attempts", 0)
    redis.call("HINCRBY", key, "epoch", 1)
    redis.call("HINCRBY", key, "redrives", 1)
    redis.call("HDEL", key, unpack(A.clear))
    redis.call("PERSIST", key)
    redis.call("ZADD", K.index("notify"), NOW, id)
    done = done + 1
  end
  results[#results + 1] = result
end
if done > A.done then
  results[1] = audit_note(A.who, "redrive", done .. " deliveries: " .. A.words, A.why, A.earlier)
end
return results
