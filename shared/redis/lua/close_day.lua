#!lua flags=allow-oom
-- Closes the oldest day of the ledger (or a part of it), which has been exported: its entries leave the stream, their
-- sums become opening balances, and where the export is gets noted. Atomic, so that opening balances and stream make
-- the balances always. The stream is only appended to: between the two ids it has what the export has.
-- ARGV: 1 prefix, 2 now_ms or "", 3 YYYY-MM-DD-PART, 4 not before (unix ms), 5 first exported id, 6 last one,
--   7 the id that follows it: all before leaves, 8 JSON note of it, 9 who, 10 why; then per account: name, micros
-- Returns: entries that left | 0 closed already | -1 not yet | -2 the stream begins with another entry
--!include keys
--!include clock
--!include audit
if redis.call("HEXISTS", K.closed, ARGV[3]) == 1 then return 0 end
if NOW < tonumber(ARGV[4]) then return -1 end
local oldest = redis.call("XRANGE", K.ledger, "-", "+", "COUNT", 1)[1]
if not oldest or oldest[1] ~= ARGV[5] or #redis.call("XRANGE", K.ledger, ARGV[6], ARGV[6]) == 0 then return -2 end
for at = 11, #ARGV, 2 do redis.call("HINCRBY", K.opening, ARGV[at], ARGV[at + 1]) end
redis.call("HSET", K.closed, ARGV[3], ARGV[8])
audit_note(ARGV[9], "close", "ledger " .. ARGV[3], ARGV[10])
return redis.call("XTRIM", K.ledger, "MINID", "=", ARGV[7])
