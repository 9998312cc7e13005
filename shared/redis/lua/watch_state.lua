#!lua flags=allow-oom
-- A worker's look at the store, once a second: is it the one that the worker knew, and does its clock run on?
-- Atomic because a loss and the freeze it causes belong together, and a step of the clock must be made up for once.
-- The first worker of an installation marks the store. A worker that finds its mark gone or replaced stops spending
-- for all, until somebody ends the freeze (freeze.lua); then it takes the store as it is.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {known: mark or "", fresh: a mark to set, worker, schema, gap_ms, grace_ms,
--   lanes: [[lane, model]]}
-- Returns: "same" | "first" | "adopted" | "lost", the store's mark or "", its schema version,
--   by how many ms the clock was ahead of what was expected (< 0: it was set back), or 0
--!include keys
--!include clock
--!include audit
--!include grace
--!include step_back
local A = cjson.decode(ARGV[3])
local mark = CONTROL[2]

local function stop_spending()
  local why = mark and "another store answers: the state was replaced" or "the state was emptied"
  if redis.call("HSET", K.losses, A.known, "open") == 1 then audit_note(A.worker, "freeze", "spending", why) end
  if CONTROL[1] then return end
  redis.call("HSET", K.control, "freeze", "spending", "freeze_by", A.worker, "freeze_at", NOW, "freeze_why", why)
end

local function recognised()
  if mark and mark == A.known then return "same" end
  local is_first = A.known == ""
  if not is_first and redis.call("HGET", K.losses, A.known) ~= "accepted" then
    stop_spending()
    return "lost"
  end
  if not mark then
    mark = A.fresh
    redis.call("HSET", K.control, "installation", mark)
  end
  return is_first and "first" or "adopted"
end

local verdict = recognised()
local schema = tonumber(redis.call("HGET", K.control, "schema") or "0")
if verdict ~= "lost" and schema < A.schema then
  schema = A.schema
  redis.call("HSET", K.control, "schema", schema)
end
local behind = tonumber(CONTROL[3] or NOW) - NOW
local step = note_gap(A.gap_ms, A.grace_ms)
if step == 0 then step = tonumber(CONTROL[8] or "0") end
if step ~= 0 then redis.call("HDEL", K.control, "untold_gap") end
if behind > 2000 then
  step = -behind
  step_back(A.lanes, behind)
  give_grace(0, A.grace_ms)
end
redis.call("HSET", K.control, "clock_at", NOW)
if verdict == "first" or verdict == "adopted" then
  for _, lane in ipairs(A.lanes) do redis.call("SADD", K.lanes, lane[1]) end
end
return { verdict, mark or "", schema, step }
