-- Fragment: what a person did to the whole, kept in the order of the server's clock. Bounded: old entries give way.

local function audit_note(who, what, subject, why)
  redis.call("XADD", K.audit, "MAXLEN", "~", 10000, "*", "at", NOW, "who", who, "what", what, "on", subject, "why", why)
end
