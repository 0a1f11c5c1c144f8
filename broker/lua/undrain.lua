#!lua flags=allow-oom
-- Takes the mark of drain off a GPU, or off a host, and serves those who waited. A GPU's own mark outlives its host's.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 'gpu' or 'host'  2 its UUID or name
-- reply  undrained | unknown
-- errors BROKER_INVALID
-- cost   O(log n) for each GPU, at most 64, plus the waiters served
-- include: keys check ledger turn drained

local kind, what = marked()
if refusal then return refusal end
if call('EXISTS', kind == 'gpu' and GPU_OF .. what or HOST_OF .. what) == 0 then return 'unknown' end
if has_mark(kind, what) then mark(kind, what, false) end
reap()
serve()
save()
return 'undrained'
