#!lua flags=allow-oom
-- Pauses the submits of a lane by hand, or lets them go on; keeps who did it, when and why, and notes it in the audit.
-- Atomic because a pause, its author and the note belong together. Asking for what is so already changes nothing.
-- ARGV: 1 prefix, 2 now_ms or "", 3 lane, 4 "1" pause | "0" go on, 5 who, 6 why, 7 "1": only say what it would do
-- Returns: 1 if it changes something, else 0
--!include keys
--!include clock
--!include audit
local key, pause = K.lane(ARGV[3]), ARGV[4] == "1"
if (redis.call("HEXISTS", key, "paused_at") == 1) == pause then return 0 end
if ARGV[7] == "1" then return 1 end
if pause then
  redis.call("HSET", key, "paused_at", NOW, "paused_by", ARGV[5], "paused_why", ARGV[6])
else
  redis.call("HDEL", key, "paused_at", "paused_by", "paused_why")
end
audit_note(ARGV[5], pause and "pause" or "resume", "lane " .. ARGV[3], ARGV[6])
return 1
