-- Fragment: what a person did, kept in the order of the server's clock. Bounded: old entries give way.

-- jobs: how many it concerns; nil if it is not of jobs.
local function audit_note(who, what, subject, why, jobs)
  local fields = { "at", NOW, "who", who, "what", what, "on", subject, "why", why }
  if jobs then fields[11], fields[12] = "jobs", jobs end
  redis.call("XADD", K.audit, "MAXLEN", "~", 10000, "*", unpack(fields))
end
