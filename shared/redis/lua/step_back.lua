-- Fragment of watch_state.lua: the server's clock was set back by `by` ms. What waits for a time of the old clock would
-- wait that much longer, so its time is pulled forward; what names a time of day (not_before, deadlines) is not.
-- Bounded: of each index the 10,000 that are due first.

local MOST = 10000

local function pulled(at_ms, by) return string.format("%.0f", math.max(NOW, tonumber(at_ms) - by)) end

local function pull_index(key, by, fixed)
  local late = redis.call("ZRANGEBYSCORE", key, "(" .. NOW, "+inf", "WITHSCORES", "LIMIT", 0, MOST)
  for at = 1, #late, 2 do
    local id, at_ms = late[at], late[at + 1]
    local stays = at_ms == "inf" or fixed and redis.call("HGET", K.record("j", id), fixed) == at_ms
    if not stays then redis.call("ZADD", key, pulled(at_ms, by), id) end
  end
end

local function pull_field(key, field, by)
  local at_ms = tonumber(redis.call("HGET", key, field) or "0")
  if at_ms > NOW then redis.call("HSET", key, field, pulled(at_ms, by)) end
end

-- A hint's key lives by the same clock, so it would keep hints back.
local function forget_hint(stage, lane) redis.call("DEL", K.hint(stage, lane)) end

local function step_back(lanes, by)
  for _, each in ipairs(lanes) do
    local lane, model = each[1], each[2]
    for _, name in ipairs({ "submit:", "poll:", "intents:" }) do pull_index(K.index(name .. lane), by) end
    pull_index(K.slots(lane), by)
    pull_index(K.index("later:" .. model), by, "not_before_at")
    pull_index(K.index("parked:" .. model), by)
    for _, field in ipairs({ "closed_until", "probe_at", "capped_until", "pace_at" }) do
      pull_field(K.lane(lane), field, by)
    end
    forget_hint("submit", lane)
    forget_hint("poll", lane)
  end
  for _, field in ipairs({ "store_failing_at", "store_stopped_at", "store_probe_at", "store_probed_at" }) do
    pull_field(K.control, field, by)
  end
  for _, name in ipairs({ "store", "notify", "giving_up", "batches", "stalling", "stopping", "told" }) do
    pull_index(K.index(name), by)
    forget_hint(name, "")
  end
  forget_hint("sweep", "")
  pull_index(K.workers, by)
end
