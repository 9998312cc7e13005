-- Fragment: a batch that reached a cap of its own takes no more jobs, and the sweep cancels those still queued.
local function batch_stop(tenant, name, why)
  if redis.call("HSETNX", K.batch(tenant, name), "stopped", why) == 0 then return end
  redis.call("HSET", K.batch(tenant, name), "stopped_at", NOW)
  redis.call("ZADD", K.index("stopping"), NOW, tenant .. ":" .. name)
end
