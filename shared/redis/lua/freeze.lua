#!lua flags=allow-oom
-- Stops spending or everything, for all workers at once, or lets them go on; keeps who did it, when and why.
-- Atomic because a freeze and its author belong together. Asking for what is so already changes nothing.
-- ARGV: 1 prefix, 2 now_ms or "", 3 "spending" (no submits) | "everything" (no claim of any stage) | "" (go on),
--   4 who, 5 why
-- Returns: what was frozen before, "" for nothing
--!include keys
--!include clock
--!include audit
local before = redis.call("HGET", K.control, "freeze") or ""
if before == ARGV[3] then return before end
redis.call("HDEL", K.control, "freeze", "freeze_by", "freeze_at", "freeze_why")
if ARGV[3] ~= "" then
  redis.call("HSET", K.control, "freeze", ARGV[3], "freeze_by", ARGV[4], "freeze_at", NOW, "freeze_why", ARGV[5])
end
if ARGV[3] == "" then -- whoever lets work go on has looked: workers take the store as it is (watch_state.lua)
  for _, mark in ipairs(redis.call("HKEYS", K.losses)) do redis.call("HSET", K.losses, mark, "accepted") end
end
audit_note(ARGV[4], "freeze", ARGV[3] == "" and "off" or ARGV[3], ARGV[5])
return before
