-- Fragment: what scopes spent and hold, by period, and what is committed: kept with every posting and move of a job.

-- Adds micros (negative: a hold is given back) to every scope of the job, in the periods of `day`.
local function use(job, micros, day)
  if micros == 0 then return end
  for _, scope in ipairs({ "tenant:" .. job.tenant, "account:" .. (job.lane or ""):match("^[^/]*") }) do
    for _, window in ipairs(WINDOWS) do count(K.usage, usage_field(job.currency, scope, window, day), micros) end
  end
end

-- A hold belongs to the periods in which it was taken: what is left of it goes back to those.
local function give_back_use(job, micros)
  use(job, -micros, tonumber(job.held_day or TODAY))
  if micros > 0 then queue_rearm(job.model, job.tenant) end
end

-- What holds of an account add up to now, whatever their periods.
local function hold_of_account(job, micros)
  count(K.usage, held_field(job.currency, (job.lane or ""):match("^[^/]*")), micros)
end

local function hold_of_batch(job, micros)
  if job.batch then count(K.batch(job.tenant, job.batch), "held_micros", micros) end
end

-- A job is priced in one currency when it is enqueued; the lane that takes it may have another (`currency`, from then).
local function currency_of_est(job) return job.est_currency or job.currency end

-- A job that comes into the queue or leaves it: `est` is the most it can cost.
local function commit_move(job, before, after, backlog)
  if not job.est or before == after then return end
  local by = (after == backlog and 1 or 0) - (before == backlog and 1 or 0)
  count(K.usage, committed_field(currency_of_est(job), job.tenant), by * job.est)
  if job.batch then count(K.batch(job.tenant, job.batch), "queued_micros", by * job.est) end
end
