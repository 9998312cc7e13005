-- Fragment: keys built inside scripts, because a claim's keys depend on what it finds. Mirrors keys.py (tested).
local P = ARGV[1] -- prefix "{namespace}:"

local K = {
  record = function(kind, id) return P .. kind .. ":" .. id end, -- kind: j(ob) or d(elivery)
  spec = function(id) return P .. "r:" .. id end,
  detail = function(id) return P .. "x:" .. id end,
  timeline = function(id) return P .. "t:" .. id end,
  idempotency = function(tenant, digest) return P .. "i:" .. tenant .. ":" .. digest end,
  generation = function(id) return P .. "g:" .. id end,
  batch = function(tenant, name) return P .. "b:" .. tenant .. ":" .. name end,
  batch_jobs = function(tenant, name) return P .. "bj:" .. tenant .. ":" .. name end,
  queue = function(model, tenant) return P .. "q:" .. model .. ":" .. tenant end,
  ready = function(model) return P .. "ready:" .. model end,
  lane = function(lane) return P .. "lane:" .. lane end,
  index = function(name) return P .. "z:" .. name end,
  slots = function(lane) return P .. "slots:" .. lane end,
  waiting = function(host) return P .. "ew:" .. host end,
  failing = function(host) return P .. "ef:" .. host end,
  hint = function(stage, lane) return P .. "hint:" .. stage .. ":" .. lane end,
  counts = P .. "counts",
  control = P .. "control",
  ledger = P .. "ledger",
  balances = P .. "balances",
  usage = P .. "usage",
  parked = P .. "parked",
  orphans = P .. "orphans",
  workers = P .. "workers",
  endpoints = P .. "endpoints",
  ended = P .. "ended",
  audit = P .. "audit",
}
