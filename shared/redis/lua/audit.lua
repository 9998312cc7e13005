-- Fragment: what a person did, kept in the order of the server's clock. Bounded: old entries give way.

-- Gives the entry's id. A command of many calls names its last entry as `earlier`, and the new one replaces it.
-- jobs: how many it concerns; nil if it is not of jobs.
local function audit_note(who, what, subject, why, earlier, jobs)
  if earlier and earlier ~= "" then redis.call("XDEL", K.audit, earlier) end
  local fields = { "at", NOW, "who", who, "what", what, "on", subject, "why", why }
  if jobs then fields[11], fields[12] = "jobs", jobs end
  return redis.call("XADD", K.audit, "MAXLEN", "~", 10000, "*", unpack(fields))
end
