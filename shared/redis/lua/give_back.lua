#!lua flags=allow-oom
-- Gives back what a process had to leave at its end: due at once, and no death of what it worked on.
-- ARGV: 1 prefix, 2 now_ms or "", then per lease 4: index, kind j|d, id, epoch
-- Returns: how many were given back; a lease that another has, or that an outcome ended, is not
--!include keys
--!include clock
local given = 0
for at = 3, #ARGV, 4 do
  local key = K.record(ARGV[at + 1], ARGV[at + 2])
  local r = redis.call("HMGET", key, "epoch", "leased")
  if r[1] == ARGV[at + 3] and r[2] then
    redis.call("HDEL", key, "leased")
    redis.call("ZADD", K.index(ARGV[at]), "XX", NOW, ARGV[at + 2])
    given = given + 1
  end
end
return given
