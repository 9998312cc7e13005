#!lua flags=allow-oom
-- Takes up to k due entries of an index (poll:LANE, store, notify) under a lease: their score moves to now + lease,
-- so one sorted set is timer, lease and crash recovery. An entry still marked `leased` lost its holder: it becomes a
-- suspect and is handed over alone; only deaths while alone count.
-- ARGV: 1 prefix, 2 now_ms or "", 3 JSON {index, kind j|d, worker, k, lease_ms, suspects 0|1, rate_key, interval_us,
--   burst, fields, detail, spec true|false}
-- Returns: next_in_ms (-1: nothing), now_ms, then per entry: {id, {fields}, {detail}, {subject of a delivery}, spec}
--!include keys
--!include clock
--!include permits
local A = cjson.decode(ARGV[3])
local index, rate_key = K.index(A.index), K.lane(A.rate_key)
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

if redis.call("HGET", K.control, "freeze") == "everything" then return { -1, NOW } end -- the tick asks again
local permitted, wait = permits_free(rate_key, A.interval_us, A.burst, A.k)
if permitted > 0 then
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", index, "-inf", NOW, "LIMIT", 0, A.k)) do
    local key = K.record(A.kind, id)
    if taken >= permitted then break end
    local r = redis.call("HMGET", key, "state", "leased", "suspect")
    if not r[1] then
      redis.call("ZREM", index, id)
    elseif not suspect(key, r[2], r[3]) then
      hand_over(id, key)
    elseif A.suspects == 1 and taken == 0 then
      hand_over(id, key)
      break
    elseif A.suspects == 0 then
      redis.call("ZADD", index, NOW + 200, id)
    end
  end
  if taken > 0 then wait = permits_take(rate_key, A.interval_us, A.burst, taken) end
end
local first = redis.call("ZRANGE", index, 0, 0, "WITHSCORES")
local next_in = first[2] and math.max(wait, tonumber(first[2]) - NOW, 0) or -1
return { next_in, NOW, unpack(out) }
