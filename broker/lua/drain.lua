#!lua flags=allow-oom
-- Marks a GPU, or a host with all its GPUs: running leases stay, none is granted.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 'gpu' or 'host'  2 its UUID or name
-- reply  drained | unknown
-- errors BROKER_INVALID
-- cost   O(log n) for each GPU, at most 64, plus the waiters served
-- include: keys check ledger turn drained

local kind, what = marked()
if refusal then return refusal end
if not has_mark(kind, what) and not mark(kind, what, true) then return 'unknown' end
reap()
serve()
save()
return 'drained'
