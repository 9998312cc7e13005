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

local function hold_of_batch(job, micros)
  if job.batch then count(K.batch(job.tenant, job.batch), "held_micros", micros) end
end

-- A job that comes into the queue or leaves it: `est` is the most it can cost.
local function commit_move(job, before, after, backlog)
  if not job.est or before == after then return end
  local field = committed_field(job.currency, job.tenant)
  if before == backlog then count(K.usage, field, -tonumber(job.est)) end
  if after == backlog then count(K.usage, field, tonumber(job.est)) end
end
