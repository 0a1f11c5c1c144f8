#!lua flags=allow-oom
-- Marks a GPU: running leases stay, none is granted.
--
-- KEYS   the pool's keys
-- ARGV   1 gpu uuid
-- reply  drained | unknown
-- errors BROKER_INVALID
-- cost   O(log n)
-- include: keys check ledger gpu reap grant

local uuid = name('gpu', ARGV[1])
if refusal then return refusal end
local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'drained')
if not gpu[1] then return 'unknown' end
if gpu[2] ~= '1' then
  call('HSET', GPU_OF .. uuid, 'drained', '1')
  index_gpu(uuid, false, 0)
  journal('drained', 'gpu', uuid, 'host', gpu[1])
end
reap()
serve()
save()
return 'drained'
