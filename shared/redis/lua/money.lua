-- Fragment: double-entry postings, written with the transition that causes them. Amounts are integers (micros).

-- One posting: `micros` leave the account `debit` and arrive at `credit`. The sum over all accounts stays 0.
local function post(job, id, kind, debit, credit, micros)
  if micros == 0 then return end
  local currency = job.currency
  redis.call("XADD", K.ledger, "*", "job", id, "kind", kind, "currency", currency, "debit", debit, "credit", credit,
    "micros", micros, "tenant", job.tenant, "batch", job.batch or "", "lane", job.lane or "",
    "intent", job.intent_id or "")
  count(K.balances, currency .. "|" .. debit, -micros)
  count(K.balances, currency .. "|" .. credit, micros)
end

-- hold: budget -> held. Written in the claim of submit, which also sets the record's `hold` and `currency`.
local function money_hold(job, id, micros)
  post(job, id, "hold", "budget:" .. job.tenant, "held:" .. job.tenant, micros)
  use(job, micros, TODAY)
  hold_of_account(job, micros)
  hold_of_batch(job, micros)
end

-- Resolves the hold once: `micros` are spent, the rest is released. Without a hold (it was released, and the
-- generation turned up late) the spend is charged to the budget. `settled` makes a second call do nothing.
local function money_settle(job, id, micros)
  if job.settled == "1" then return 0 end
  local held = tonumber(job.hold or "0")
  local from_hold = math.min(held, micros)
  post(job, id, "settle", "held:" .. job.tenant, "spent:" .. job.tenant, from_hold)
  post(job, id, "release", "held:" .. job.tenant, "budget:" .. job.tenant, held - from_hold)
  post(job, id, "charge", "budget:" .. job.tenant, "spent:" .. job.tenant, micros - from_hold)
  give_back_use(job, held - from_hold)
  use(job, micros - from_hold, TODAY)
  hold_of_account(job, -held)
  hold_of_batch(job, -held)
  redis.call("HSET", K.record("j", id), "hold", 0, "settled", 1)
  redis.call("HINCRBY", K.record("j", id), "cost_micros", micros)
  return micros
end

-- Gives the whole hold back.
local function money_release(job, id)
  local held = tonumber(job.hold or "0")
  post(job, id, "release", "held:" .. job.tenant, "budget:" .. job.tenant, held)
  give_back_use(job, held)
  hold_of_account(job, -held)
  hold_of_batch(job, -held)
  redis.call("HSET", K.record("j", id), "hold", 0)
end

-- An unknown POST is resubmitted: its money is neither spent nor free until reconciled, and goes on counting for caps.
local function money_doubt(job, id)
  local held = tonumber(job.hold or "0")
  post(job, id, "doubt", "held:" .. job.tenant, "doubt:" .. job.tenant, held)
  hold_of_account(job, -held)
  hold_of_batch(job, -held)
  if job.batch then count(K.batch(job.tenant, job.batch), "doubt_micros", held) end
  redis.call("HSET", K.record("j", id), "hold", 0)
end
