#!lua flags=allow-oom
-- Ends what is over and serves waiters, as every other script does on its way; for those who have nothing else to ask.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   none
-- reply  the ledger's time in ms
-- errors none
-- cost   O(log n) for each of at most 8 leases, GPUs and waiters that are over, plus the waiters served
-- include: keys ledger turn

reap()
serve()
save()
return int(now)
