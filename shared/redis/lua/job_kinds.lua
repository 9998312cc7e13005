-- Fragment of enqueue_jobs.lua: what jobs of one kind share, and where they wait.

-- Where jobs wait: members for one ZADD per queue, per index of those whose not_before is to come, or per model of
-- what a paused batch sets aside.
local places = {}
local function place_of(model, not_before)
  local key, place = K.queue(model, H.tenant), { queue = model }
  if not_before > NOW then
    key, place = K.index("later:" .. model), {}
  elseif paused then
    key, place = K.aside(model, H.tenant, H.batch), { aside = model }
  end
  place.members = {}
  places[key] = places[key] or place
  return places[key].members
end

-- What jobs of one kind share. `fields` begins with what they do not, where it is found at once: rank, and the
-- idempotency digest if there is one.
local kinds = {}
local function kind_of(text, keyed)
  local name = (keyed and "k" or "") .. text
  if kinds[name] then return kinds[name] end
  local given = cjson.decode(text)
  local fields = { "rank", "", "idempotency", "" }
  if not keyed then fields = { "rank", "" } end
  local kind = { offset = given[2], not_before = given[3], deadline = given[4], fields = fields, own = #fields,
    est = given[6], currency = given[7], members = place_of(given[1], given[3]) }
  local function add(field, value) fields[#fields + 1] = field; fields[#fields + 1] = value end
  add("state", H.state)
  add("tenant", H.tenant)
  add("created_at", NOW)
  add("model", given[1])
  if given[6] then -- the most it can cost
    add("est", string.format("%.0f", given[6]))
    add("currency", given[7])
  end
  if in_batch then add("batch", H.batch) end
  if given[4] > 0 then add("deadline_at", string.format("%.0f", given[4])) end
  for at = 1, #given[5], 2 do add(given[5][at], given[5][at + 1]) end
  kinds[name] = kind
  return kind
end

-- Writes a record. Copying the first of its kind costs the server less than writing field by field.
local function write_record(kind, record, rank, digest)
  local fields = kind.fields
  fields[2] = rank
  if kind.own > 2 then fields[4] = digest end
  if kind.first then
    redis.call("COPY", kind.first, record)
    redis.call("HSET", record, unpack(fields, 1, kind.own))
  else
    redis.call("HSET", record, unpack(fields))
    kind.first = record
  end
end
