#!lua
-- Accepts a chunk of jobs of one tenant (and at most one batch): record, spec, idempotency key, queue, counts.
-- Atomic because a job must never exist without its place in a queue, nor a key without its job. Refused whole on
-- OOM (no allow-oom): a full server takes no new work. Commands are few per job, because they are what it costs.
-- ARGV: 1 prefix, 2 now_ms or "", 3 header JSON {state, tenant, batch, batch_webhook, backlog, tenant_backlog,
--   idle_seal_ms, caps: [[window, limit, currency]], batch_caps: {field: value}}, then per job 5: id, idempotency
--   digest or "", fingerprint, kind, spec JSON; kind is JSON [model, rank offset (-priority * 2^41), not_before_ms or
--   0, deadline_ms or 0, [field, value, ...] of the record, est micros, currency]
-- Returns per job: 0 enqueued (also: by an earlier sending of this chunk) | "1:ID" duplicate | "2:ID" conflict
--   | 3 tenant backlog | 4 backlog | 5 batch sealed | 6 over a cap | 7 the batch has other caps
--!include keys
--!include clock
--!include queue
--!include calendar
local H = cjson.decode(ARGV[3])
local STRIDE, FIRST = 5, 4
local in_batch, batch_key = H.batch ~= "", K.batch(H.tenant, H.batch)
H.caps, H.batch_caps = H.caps or {}, H.batch_caps or {}
--!include batch_door
local counts = redis.call("HMGET", K.counts, "*|" .. H.state, H.tenant .. "|" .. H.state)
local room, tenant_room = H.backlog - tonumber(counts[1] or "0"), H.tenant_backlog - tonumber(counts[2] or "0")
--!include job_kinds
--!include admission

local accepted, strings = {}, {}
local function set(key, value) strings[#strings + 1] = key; strings[#strings + 1] = value end

local function accept(at, nr, claim)
  local id, kind = ARGV[at], kind_of(ARGV[at + 3], claim ~= false)
  local rank = string.format("%.0f", kind.offset + seq + nr)
  write_record(kind, records[nr], rank, ARGV[at + 1])
  set(K.spec(id), ARGV[at + 4])
  if claim then
    owners[claim] = id .. ":" .. ARGV[at + 2]
    set(claim, owners[claim])
  end
  if kind.deadline > 0 then redis.call("ZADD", K.index("expiring"), kind.deadline, id) end
  local due = kind.not_before > NOW and string.format("%.0f", kind.not_before) or rank
  kind.members[#kind.members + 1] = due
  kind.members[#kind.members + 1] = id
  accepted[#accepted + 1] = id
  room, tenant_room = room - 1, tenant_room - 1
  commit(kind)
end

local results = {}
for nr = 1, #records do
  local at = FIRST + (nr - 1) * STRIDE
  results[nr] = refusal(nr, at, claims[nr])
  if not results[nr] then
    accept(at, nr, claims[nr])
    results[nr] = 0
  end
end

for key, place in pairs(places) do
  local first = place.members[1] -- none: all jobs of these kinds were refused
  if first and place.queue then queue_push(place.queue, H.tenant, place.members[2], first) end
  if first and place.aside then redis.call("HSET", batch_key, "aside:" .. place.aside, 1) end
  if first then redis.call("ZADD", key, unpack(place.members)) end
end
if #accepted > 0 then
  redis.call("MSET", unpack(strings))
  redis.call("HINCRBY", K.counts, "*|" .. H.state, #accepted)
  redis.call("HINCRBY", K.counts, H.tenant .. "|" .. H.state, #accepted)
  write_committed()
end
batch_join(accepted)
return results
