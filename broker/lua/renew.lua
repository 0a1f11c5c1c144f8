#!lua flags=allow-oom
-- Puts off a lease's end: it now ends one TTL from now; one that was revoked, at its deadline at the latest.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 token  3 ttl_ms, or '' for the lease's own  4 with a ttl_ms: nonce, a text of this very call's own, or ''
--        (a copy of it that comes late does not set the lease's TTL back)
-- reply  expires_at_ms, the time by which its holder was asked to end it, or 0, and the words of who asked for that
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n)
-- include: keys check ledger holder lease turn
-- needs: copies

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
if ARGV[3] ~= '' then whole('ttl_ms', ARGV[3], 100, 86400000) end
nonce_text(ARGV[4])
if refusal then return refusal end
local lease, refused = held_by(id, ARGV[2])
if refused then return refused end
if is_over(lease) then return lost(lease) end

local ttl_ms = lease.ttl_ms
if ARGV[3] ~= '' and not heard(id, ARGV[4] or '') then
  ttl_ms = tonumber(ARGV[3])
  hear(id, ARGV[4] or '')
end
local expires = prolong(lease, ttl_ms, 'ttl_ms', int(ttl_ms))
reap()
serve()
save()
return { expires, int(lease.revoke_at), lease.revoke_at > 0 and call('HGET', LEASE_OF .. id, 'revoke_reason') or '' }
