#!lua flags=allow-oom
-- Applies transitions, each guarded by epoch or intent and by the states it expects, each with its own result.
-- Atomic per transition: record, indexes, slot, money, batch, event and counts move together or not at all.
-- ARGV: 1 prefix, 2 now_ms or "", 3 context JSON (see batch.lua; with audit {who, what, on, why}: noted if anything
--   was applied), 4 transitions: JSON array of objects
--   {k kind, id, e epoch?, i intent?, ni 1|intent: only without intent, or with this one, lane: [lane, verb, ...]?,
--     st [object store: ok | trouble, after_ms, probe_ms]?, h held index?, v: [variant]}
--   variant: {f from states, ao 1: only if its accounting is open?,
--     t to?, s set?, u unset?, b increments?, x detail?, xu detail to drop?, ts timestamps?,
--     o leave indexes?, n [[index, "in"|"at", ms]]?, q push to queue 1?, qr remove from queue 1?, slot [lane, ms]?
--     (<0 frees), intent [lane, 1|0]?, m [verb, micros]?, gen generation id?, p park?, fin 1? (-1: back from an end),
--     im images?, ev event?, ttl ms? (0: for good), note?, ep [host before, host now, failed 0|1, created_at]? of a
--     delivery (endpoint.lua)}
-- Returns per transition: K applied variant K | 0 fenced | -1 missing | -2 orphan generation | -3 generation taken
--!include keys
--!include clock
local CTX = cjson.decode(ARGV[3])
--!include tally
--!include queue
--!include calendar
--!include usage
--!include money
--!include delivery
--!include endpoint
--!include batch_stop
--!include batch
--!include lane_pace
--!include lane
--!include store_note
--!include guard
--!include transition
--!include audit
local results, applied = {}, 0
for at, t in ipairs(cjson.decode(ARGV[4])) do
  if t.lane then lane_note(unpack(t.lane)) end
  if t.st then store_note(t.id, unpack(t.st)) end
  local job = read_record(t.k, t.id)
  local variant, refusal = choose(t, job)
  if variant and variant.gen and not claim_generation(t.id, variant.gen) then variant, refusal = nil, -3 end
  if variant then
    results[at], applied = variant.nr, applied + 1
    apply(t, job, variant)
  else
    results[at] = refusal
  end
end
write_tally()
batch_check_touched()
if CTX.audit and applied > 0 then
  audit_note(CTX.audit.who, CTX.audit.what, CTX.audit.on, CTX.audit.why, nil, applied)
end
return results
