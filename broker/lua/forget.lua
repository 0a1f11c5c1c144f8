#!lua
-- Forgets what was learned of a function's runs: its next request of "auto" asks for its default again.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 function
-- reply  forgotten | unknown
-- errors BROKER_INVALID
-- cost   O(log n) of at most 1,000 functions, and O(fields) of one
-- include: keys check

local what = name('function', ARGV[1])
if refusal then return refusal end
call('DEL', SIZE_OF .. what)
return call('ZREM', SIZES, what) == 1 and 'forgotten' or 'unknown'
