#!lua flags=allow-oom
-- An operator, or a higher priority, wants a lease's memory back: its holder is told at its next renewal and has the
-- grace to end it; then it ends as if its time were over. Asked again, the deadline only moves nearer.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 grace_ms  3 reason  4 token of the lease that is meant, or '' for whichever has the name now
-- reply  revoked revoke_at_ms | unknown | gone (over already, its bytes still count)
-- errors BROKER_INVALID
-- cost   O(log n)
-- include: keys check ledger turn
-- needs: lease change

local id, grace_ms = name('lease_id', ARGV[1]), whole('grace_ms', ARGV[2], 0, 86400000)
local reason, meant = ARGV[3] or '', ARGV[4] or ''
if meant ~= '' then whole('token', meant, 1, 9007199254740991) end
if #reason > 200 or string.find(reason, '%c') then invalid('reason', reason, 'one line of at most 200 characters') end
if refusal then return refusal end
local lease, answer = read_lease(id), { 'unknown' }
if lease and meant ~= '' and lease.token ~= meant then lease = nil end
if lease and lease.state == 'reclaiming' then
  answer = { 'gone' }
elseif lease then
  answer = { 'revoked', int(revoke_lease(lease, grace_ms, reason)) }
end
reap()
serve()
save()
return answer
