#!lua flags=allow-oom
-- Puts off a lease's end: it now ends one TTL from now; one that was revoked, at its deadline at the latest.
--
-- KEYS   the pool's keys
-- ARGV   1 id  2 token  3 ttl_ms, or '' for the lease's own
-- reply  expires_at_ms, and the time by which its holder was asked to end it, or 0
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n)
-- include: keys check ledger holder lease turn

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
if ARGV[3] ~= '' then whole('ttl_ms', ARGV[3], 100, 86400000) end
if refusal then return refusal end
local lease, refused = held_by(id, ARGV[2])
if refused then return refused end
if is_over(lease) then return lost(lease) end

local ttl_ms = ARGV[3] == '' and lease.ttl_ms or tonumber(ARGV[3])
local expires = prolong(lease, ttl_ms, 'ttl_ms', int(ttl_ms))
reap()
serve()
save()
return { expires, int(lease.revoke_at) }
