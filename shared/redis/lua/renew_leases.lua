#!lua flags=allow-oom
-- Renews every lease a process holds, in one call, and marks the process as living.
-- ARGV: 1 prefix, 2 now_ms or "", 3 lease_ms, then per lease 4: index, kind j|d, id, epoch
-- Returns the ids whose lease is lost (another epoch): the holder must drop them. A lease that its own outcome ended is
-- neither: the entry may be due again in the same index, and its time stands.
--!include keys
--!include clock
local lost, deadline = {}, NOW + tonumber(ARGV[3])
for at = 4, #ARGV, 4 do
  local id = ARGV[at + 2]
  local r = redis.call("HMGET", K.record(ARGV[at + 1], id), "epoch", "leased")
  if r[1] ~= ARGV[at + 3] then
    lost[#lost + 1] = id
  elseif r[2] then
    redis.call("ZADD", K.index(ARGV[at]), "XX", deadline, id)
  end
end
return lost
