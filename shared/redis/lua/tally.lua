-- Fragment: counters of one call are summed here and written once per field at its end.
local TALLY = {}

local function count(key, field, by)
  if by == 0 then return end
  local fields = TALLY[key] or {}
  TALLY[key] = fields
  fields[field] = (fields[field] or 0) + by
end

-- The bill of a job may be settled after its batch's time: then nothing must be left for the next one of that name.
local function is_of_past(key)
  return key:sub(1, #P + 2) == P .. "b:" and redis.call("EXISTS", key) == 0
end

local function write_tally()
  for key, fields in pairs(TALLY) do
    local past = is_of_past(key)
    for field, by in pairs(fields) do
      if by ~= 0 and not past then redis.call("HINCRBY", key, field, string.format("%.0f", by)) end
    end
  end
end

-- Jobs by state: of all, and of a tenant in the state that its backlog cap counts.
local function count_move(tenant, before, after, backlog)
  count(K.counts, "*|" .. before, -1)
  count(K.counts, "*|" .. after, 1)
  if before == backlog then count(K.counts, tenant .. "|" .. backlog, -1) end
  if after == backlog then count(K.counts, tenant .. "|" .. backlog, 1) end
end
