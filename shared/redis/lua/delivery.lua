-- Fragment: an event is created with the transition that it tells of, so neither exists without the other.

-- Creates the delivery of one event and makes it due. `subject` is a flat list of further fields.
local function delivery_create(event_id, event, initial_state, tenant, subject)
  redis.call("HSET", K.record("d", event_id), "event", event, "state", initial_state, "tenant", tenant,
    "created_at", NOW, "epoch", 0, "attempts", 0, unpack(subject))
  redis.call("ZADD", K.index("notify"), NOW, event_id)
end
