-- Fragment: may more images be made, as the object store is? While copies fail or do not come on, their URLs run out.
-- A: the question of claim_submit.lua, with store {lag_ms, probe_ms}; CONTROL: of grace.lua.

local STORE_ASK_MS = 1000 -- the first copy that succeeds opens it; nobody tells the claims of that

-- How many of `want` jobs may go, and why not; or that one goes to try the store.
local function store_gate(want)
  if not A.store then return want, nil, false end -- storage is off
  if CONTROL[6] then -- stopped: store_note.lua
    local wait = tonumber(CONTROL[7] or "0") - NOW
    if wait <= 0 then return 1, nil, true end
    soonest(math.min(wait, STORE_ASK_MS))
    return 0, "storage", false
  end
  local first = redis.call("ZRANGE", K.index("store"), 0, 0, "WITHSCORES")
  if first[2] and NOW - tonumber(first[2]) > A.store.lag_ms then -- copies are due, and nobody takes them
    soonest(STORE_ASK_MS)
    return 0, "storage", false
  end
  return want, nil, false
end

local function note_store_probe()
  redis.call("HSET", K.control, "store_probe_at", NOW + A.store.probe_ms, "store_probed_at", NOW)
end
