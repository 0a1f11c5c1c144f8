#!lua flags=allow-oom
-- The start gate (law 9): confirms a lease right before job code runs, notes the process that will use it, and starts
-- its TTL afresh.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 token  3 pid of the process that runs the job, or '' to leave it  4 when that process began, in the
--        words of its host, or '' (a pid alone may be another's one day)
-- reply  expires_at_ms
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n)
-- include: keys check ledger holder lease turn

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
if ARGV[3] ~= '' then whole('pid', ARGV[3], 1, 4194304) end
name('pid_started', ARGV[4] or '', true)
if refusal then return refusal end
local lease, refused = held_by(id, ARGV[2])
if refused then return refused end
if is_over(lease) then return lost(lease) end

local expires
if ARGV[3] == '' then
  expires = prolong(lease, lease.ttl_ms)
else
  expires = prolong(lease, lease.ttl_ms, 'pid', ARGV[3], 'pid_started', ARGV[4] or '')
end
reap()
serve()
save()
return expires
