-- Fragment: what a person did to the whole, kept in the order of the server's clock. Bounded: old entries give way.

-- Gives the entry's id. A command of many calls names its last entry as `earlier`, and the new one replaces it.
local function audit_note(who, what, subject, why, earlier)
  if earlier and earlier ~= "" then redis.call("XDEL", K.audit, earlier) end
  return redis.call("XADD", K.audit, "MAXLEN", "~", 10000, "*", "at", NOW, "who", who, "what", what, "on", subject,
    "why", why)
end
