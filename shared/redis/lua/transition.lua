-- Fragment: applying one variant of a transition that the guard allows; see apply_transitions.lua for its shape.

local function write_fields(t, v)
  local key, fields = K.record(t.k, t.id), {}
  local function add(field, value) fields[#fields + 1] = field; fields[#fields + 1] = value end
  if v.t then add("state", v.t) end
  for field, value in pairs(v.s or {}) do add(field, value) end
  for _, field in ipairs(v.ts or {}) do add(field, NOW) end
  if #fields > 0 then redis.call("HSET", key, unpack(fields)) end
  if v.u and #v.u > 0 then redis.call("HDEL", key, unpack(v.u)) end
  for field, by in pairs(v.b or {}) do redis.call("HINCRBY", key, field, by) end
  for field, value in pairs(v.x or {}) do redis.call("HSET", K.detail(t.id), field, value) end
  if v.xu and #v.xu > 0 then redis.call("HDEL", K.detail(t.id), unpack(v.xu)) end
end

-- Removes before it adds, so that a move inside one index works; a wake-up asked for in the meantime wins.
local function write_indexes(t, job, v)
  for _, name in ipairs(v.o or {}) do redis.call("ZREM", K.index(name), t.id) end
  for _, entry in ipairs(v.n or {}) do
    local due = entry[2] == "at" and entry[3] or NOW + entry[3]
    if job.wake_at then
      due = math.min(due, tonumber(job.wake_at))
      redis.call("HDEL", K.record(t.k, t.id), "wake_at")
    end
    redis.call("ZADD", K.index(entry[1]), string.format("%.0f", due), t.id)
  end
  if v.q then queue_push(job.model, job.tenant, t.id, job.rank) end
  if v.qr then queue_remove(job, t.id) end
  if v.intent and v.intent[2] == 1 then redis.call("ZADD", K.index("intents:" .. v.intent[1]), NOW, t.id) end
  if v.intent and v.intent[2] == 0 then redis.call("ZREM", K.index("intents:" .. v.intent[1]), t.id) end
  if v.slot and v.slot[2] < 0 then redis.call("ZREM", K.slots(v.slot[1]), t.id) end
  if v.slot and v.slot[2] >= 0 then redis.call("ZADD", K.slots(v.slot[1]), NOW + v.slot[2], t.id) end
end

local function write_money(t, job, v)
  if not v.m then return end
  if job.batch and not v.t then batch_touch(job) end -- a bill that was open after the job's end
  if v.m[1] == "release" then return money_release(job, t.id) end
  if v.m[1] == "doubt" then return money_doubt(job, t.id) end
  batch_cost(job, money_settle(job, t.id, v.m[2]))
end

local function write_event(t, job, v)
  if not v.ev or not job.hook then return end
  local nr = redis.call("HINCRBY", K.record("j", t.id), "events", 1)
  delivery_create("evt_" .. t.id:gsub("^job_", "") .. "_" .. nr, v.ev, CTX.delivery, job.tenant, { "job", t.id })
end

-- ttl 0: it stays, as its bill is open again.
local function expire(t, job, ttl)
  local keys = { K.record(t.k, t.id) }
  if t.k == "j" then
    keys = { keys[1], K.spec(t.id), K.detail(t.id), K.timeline(t.id) }
    if job.idempotency then keys[5] = K.idempotency(job.tenant, job.idempotency) end
  end
  for _, key in ipairs(keys) do
    if ttl == 0 then redis.call("PERSIST", key) else redis.call("PEXPIRE", key, ttl) end
  end
end

local function apply(t, job, v)
  write_money(t, job, v)
  write_fields(t, v)
  write_indexes(t, job, v)
  if v.note then redis.call("RPUSH", K.timeline(t.id), NOW .. "|" .. (v.t or job.state) .. "|" .. v.note) end
  if t.k == "j" and v.t and v.t ~= job.state then
    count_move(job.tenant, job.state, v.t, CTX.backlog)
    commit_move(job, job.state, v.t, CTX.backlog)
    write_event(t, job, v)
    batch_move(job, job.state, v.t, v.p or 0, v.fin or 0, v.im or 0)
    if job.batch and v.fin == 1 and v.s and v.s.error_code then
      count(K.batch(job.tenant, job.batch), "e:" .. v.s.error_code, 1)
    end
    if v.fin == 1 then redis.call("PUBLISH", K.ended, t.id) end
  end
  if v.ep then endpoint_move(t.id, v.ep) end
  if v.ttl then expire(t, job, v.ttl) end
end
