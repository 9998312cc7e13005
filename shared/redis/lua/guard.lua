-- Fragment: may a transition be applied, and which of its variants? See apply_transitions.lua for its shape.

local FIELDS = { "state", "epoch", "intent_id", "tenant", "batch", "model", "lane", "rank", "hold", "settled",
  "currency", "hook", "wake_at", "idempotency", "events", "n", "est", "est_currency", "held_day", "generation_id", "v",
  "accounting" }

local function read_record(kind, id)
  local values, job = redis.call("HMGET", K.record(kind, id), unpack(FIELDS)), {}
  for i, field in ipairs(FIELDS) do job[field] = values[i] or nil end
  return job
end

-- Gives an entry back to its index: its state changed under the holder, whoever claims it next reads afresh.
local function give_back(t)
  if t.h then redis.call("ZADD", K.index(t.h), "XX", NOW, t.id) end
  redis.call("HDEL", K.record(t.k, t.id), "leased")
end

-- What is paid for must not be forgotten: a generation that no job takes is listed.
local function unowned(t, refusal)
  local generation = t.i and t.v[1].gen
  if not generation then return nil, refusal end
  redis.call("HSET", K.orphans, generation, t.id .. "|" .. t.i .. "|" .. NOW)
  return nil, -2
end

-- The variant that the guard allows, or nil and the refusal.
local function choose(t, job)
  if not job.state then return unowned(t, -1) end
  if t.i and job.intent_id ~= t.i then return unowned(t, 0) end
  if t.i and t.v[1].gen and job.generation_id then -- attached already: by hand, or by an earlier sending of this
    if job.generation_id == t.v[1].gen then return nil, 0 end
    return unowned(t, 0)
  end
  if not t.i and tonumber(job.v or "1") > (CTX.schema or 1) then return nil, 0 end -- a later version's
  if t.e and job.epoch ~= tostring(t.e) then return nil, 0 end
  if t.ni and job.intent_id and job.intent_id ~= t.ni then return nil, 0 end
  for nr, variant in ipairs(t.v) do
    variant.nr = nr
    for _, state in ipairs(variant.f) do
      if state == job.state and (job.accounting or not variant.ao) then return variant end
    end
  end
  if t.e then give_back(t) end
  return nil, 0
end

local function claim_generation(id, generation)
  local owner = redis.call("SET", K.generation(generation), id, "NX", "GET", "PX", 2592000000)
  return not owner or owner == id
end
