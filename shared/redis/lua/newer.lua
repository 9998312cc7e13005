-- Fragment: a record that a later version wrote is left to workers of that version. A: the question of a claim.

local left_alone = 0

local function is_newer(version)
  return version and A.schema and tonumber(version) > A.schema
end

-- Lets others look first, and says so where `darkroom doctor` and the exporter see it.
local function leave_alone(index, id)
  left_alone = left_alone + 1
  redis.call("ZADD", index, NOW + 1000, id)
  redis.call("ZREMRANGEBYSCORE", K.index("newer"), "-inf", NOW - 60000)
  redis.call("ZADD", K.index("newer"), NOW, id)
  redis.call("PEXPIRE", K.index("newer"), 60000)
  return true
end
