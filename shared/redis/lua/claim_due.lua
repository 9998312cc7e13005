#!lua flags=allow-oom
-- Takes up to k due entries of an index (poll:LANE, store, notify) under a lease: their score moves to now + lease,
-- so one sorted set is timer, lease and crash recovery. An entry still marked `leased` lost its holder: it becomes a
-- suspect and is handed over alone; only deaths while alone count.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {index, kind j|d, worker, k, lease_ms, suspects 0|1, rate_key, interval_us,
--   burst, fields, detail, spec true|false, schema, gap_ms, grace_ms}
-- Returns: next_in_ms (-1: nothing), now_ms, then per entry: {id, {fields}, {detail}, {subject of a delivery}, spec}
--!include keys
--!include clock
--!include permits
--!include grace
local A = cjson.decode(ARGV[3])
--!include newer
local index = K.index(A.index)
local rate = { key = K.lane(A.rate_key), interval_us = A.interval_us, burst = A.burst, ahead_us = 0 }
local out, taken = {}, 0

-- Marks an entry whose holder died; returns whether it is a suspect.
local function suspect(key, leased, marked)
  if not leased then return marked == "1" end
  if marked == "1" then redis.call("HINCRBY", key, "deaths", 1) end
  redis.call("HSET", key, "suspect", 1)
  redis.call("HINCRBY", key, "epoch", 1) -- fences the old holder at once
  redis.call("HDEL", key, "leased")
  return true
end

-- What a delivery tells of: {record, spec, detail} of its job, or {batch}.
local function subject(key)
  local about = redis.call("HMGET", key, "job", "batch", "tenant")
  if about[2] then return { redis.call("HGETALL", K.batch(about[3], about[2])) } end
  return { redis.call("HGETALL", K.record("j", about[1])), redis.call("GET", K.spec(about[1])) or "",
    redis.call("HGETALL", K.detail(about[1])) }
end

-- Whether an entry is nobody's now: a later version's, or told of one's job, or its holder may yet renew it.
local function let_be(id, r)
  if is_newer(r[4] or r[5] and redis.call("HGET", K.record("j", r[5]), "v")) then return leave_alone(index, id) end
  return r[2] and NOW < grace_until and spare(index, id, tonumber(redis.call("ZSCORE", index, id)))
end

-- Takes the lease, and gives the entry with its record's fields; A.fields starts with `epoch`.
local function hand_over(id, key)
  local values, detail = redis.call("HMGET", key, unpack(A.fields)), {}
  values[1] = tostring(tonumber(values[1] or "0") + 1)
  redis.call("HSET", key, "epoch", values[1], "leased", A.worker)
  redis.call("ZADD", index, NOW + A.lease_ms, id)
  if #A.detail > 0 then detail = redis.call("HMGET", K.detail(id), unpack(A.detail)) end
  local spec = A.spec and redis.call("GET", K.spec(id)) or ""
  out[#out + 1] = { id, values, detail, A.kind == "d" and subject(key) or {}, spec }
  taken = taken + 1
end

if CONTROL[1] == "everything" then return { -1, NOW } end -- the tick asks again
if A.gap_ms then note_gap(A.gap_ms, A.grace_ms) end
local permitted, wait = permits_free(rate, A.k)
if permitted > 0 then
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", index, "-inf", NOW, "LIMIT", 0, A.k)) do
    local key = K.record(A.kind, id)
    if taken >= permitted then break end
    local r = redis.call("HMGET", key, "state", "leased", "suspect", "v", "job")
    if not r[1] then
      redis.call("ZREM", index, id)
    elseif not let_be(id, r) then
      if not suspect(key, r[2], r[3]) then
        hand_over(id, key)
      elseif A.suspects == 1 and taken == 0 then
        hand_over(id, key)
        break
      elseif A.suspects == 0 then
        redis.call("ZADD", index, NOW + 200, id)
      end
    end
  end
  if taken > 0 then wait = permits_take(rate, taken) end
end
local first = redis.call("ZRANGE", index, 0, 0, "WITHSCORES")
local next_in = first[2] and math.max(wait, tonumber(first[2]) - NOW, 0) or -1
return { next_in, NOW, unpack(out) }
