-- Fragment of enqueue_jobs.lua: is a job admitted, a duplicate, or refused?

-- Two reads for all: who has the idempotency keys; and, of jobs without one, whether the chunk is here already.
local records, claims, wanted, unkeyed, owners = {}, {}, {}, {}, {}
for at = FIRST, #ARGV, STRIDE do
  local nr, record = #records + 1, K.record("j", ARGV[at])
  records[nr], claims[nr] = record, ARGV[at + 1] ~= "" and K.idempotency(H.tenant, ARGV[at + 1])
  if claims[nr] then wanted[#wanted + 1] = claims[nr] else unkeyed[#unkeyed + 1] = record end
end
if #wanted > 0 then
  for nr, owner in ipairs(redis.call("MGET", unpack(wanted))) do owners[wanted[nr]] = owner end
end
local resent = #unkeyed > 0 and redis.call("EXISTS", unpack(unkeyed)) > 0
local seq = redis.call("HINCRBY", K.control, "sequence", #records) - #records

-- 0 for an earlier sending of the same job, "1:ID" or "2:ID" if another living job has the key.
local function existing(nr, id, claim, fingerprint)
  if not claim then return resent and redis.call("EXISTS", records[nr]) == 1 and 0 or nil end
  if not owners[claim] then return nil end
  local owner, known = owners[claim]:match("^(.-):(.*)$")
  if redis.call("EXISTS", K.record("j", owner)) == 0 then return nil end
  if owner == id then return 0 end
  return (known == fingerprint and "1:" or "2:") .. owner
end

-- What is left under the caps that reject (spent, held and committed count), per currency; read at first need.
local cap_rooms, committed = {}, {}
local function cap_room(currency)
  if cap_rooms[currency] then return cap_rooms[currency] end
  local least = math.huge
  local queued = tonumber(redis.call("HGET", K.usage, committed_field(currency, H.tenant)) or "0")
  for _, cap in ipairs(H.caps) do
    if cap[3] == currency then
      least = math.min(least, cap[2] - used(currency, "tenant:" .. H.tenant, cap[1]) - queued)
    end
  end
  cap_rooms[currency] = least
  return least
end

local function commit(kind)
  if not kind.est then return end
  cap_rooms[kind.currency] = cap_room(kind.currency) - kind.est
  committed[kind.currency] = (committed[kind.currency] or 0) + kind.est
end

local function write_committed()
  for currency, micros in pairs(committed) do
    local by = string.format("%.0f", micros)
    redis.call("HINCRBY", K.usage, committed_field(currency, H.tenant), by)
    if in_batch then redis.call("HINCRBY", batch_key, "queued_micros", by) end
  end
end

-- A chunk sent twice (the reply was lost) finds its own ids: accepted already, and left alone.
local function refusal(nr, at, claim)
  local seen = existing(nr, ARGV[at], claim, ARGV[at + 2])
  if seen then return seen end
  if sealed then return 5 end
  if misfit then return 7 end
  if tenant_room <= 0 then return 3 end
  if room <= 0 then return 4 end
  if #H.caps == 0 then return nil end
  local kind = kind_of(ARGV[at + 3], claim ~= false)
  return kind.est and kind.est > cap_room(kind.currency) and 6 or nil
end
