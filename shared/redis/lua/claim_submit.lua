#!lua flags=allow-oom
-- Takes up to k queued jobs of a lane's model for which permit, slot and POST place all allow: no job is taken and
-- then made to wait, but for the ahead_us until its permit's moment. Also hands over jobs whose holder died in
-- `submitting` (expired = 1), first.
-- Atomic because permit, slot, hold, lease and state must change together.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {lane, model, account, worker, k, lease_ms, interval_us, burst, ahead_us?,
--   max_posts, max_slots, price_micros, currency, breaker, probe_ms, stuck_ms, suspects, before, after, fields,
--   caps?, mark, schema, gap_ms, grace_ms, store?}; mark: of the store that the worker knows ("lost" if it is not
--   this one); store {lag_ms, probe_ms} of the object store, absent if there is none: the longest that copies may be
--   overdue, between jobs that try it
-- Returns: next_in_ms (-1: an event will hint), now_ms, reason, then per job: {id, expired 0|1, {fields}, spec JSON,
--   the moment of its permit in us from now}
--!include keys
--!include clock
--!include permits
--!include tally
--!include queue
--!include calendar
--!include usage
--!include money
--!include batch_stop
--!include grace
local A = cjson.decode(ARGV[3])
if A.mark and A.mark ~= "" and CONTROL[2] ~= A.mark then return { -1, NOW, "lost" } end
--!include newer
local held, lane_key = K.index("submit:" .. A.lane), K.lane(A.lane)
--!include lane_pace
--!include lane_gate
--!include store_gate
--!include caps
--!include submit_lease
--!include queue_admit
--!include queue_take
if A.gap_ms then note_gap(A.gap_ms, A.grace_ms) end
take_expired()
local want, reason = places()
local probes_store = false
if want > 0 then
  local refusal
  want, refusal, probes_store = store_gate(want)
  reason = refusal or reason
end
if want > 0 then
  promote()
  local interval_us = paced_us(lane_key, A.interval_us)
  local rate = { key = lane_key, interval_us = interval_us, burst = A.burst, ahead_us = A.ahead_us or 0 }
  local permitted, wait = permits_free(rate, want)
  local probing = reason == "probe"
  if permitted == 0 then
    reason = "permits"
    soonest(wait)
  else
    local taken, stop = take_fresh(permitted)
    if stop == "account" or stop == "tenant" then reason = "cap" end
    if taken > 0 then
      local moment
      wait, moment = permits_take(rate, taken)
      give_moments(taken, moment, interval_us)
      if probes_store then note_store_probe() end
      if probing then redis.call("HSET", lane_key, "probe_at", NOW + A.probe_ms) end
    end
    if stop ~= "account" and redis.call("EXISTS", K.ready(A.model)) == 1 then soonest(wait) end
  end
  first_due(K.index("later:" .. A.model))
  first_due(parked_index(A.model))
end
first_due(held)
write_tally()
return { next_in, NOW, reason, unpack(out) }
