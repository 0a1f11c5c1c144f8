#!lua flags=allow-oom
-- Takes the mark of drain off a GPU and serves those who waited for it.
--
-- KEYS   the pool's keys
-- ARGV   1 gpu uuid
-- reply  undrained | unknown
-- errors BROKER_INVALID
-- cost   O(log n), plus the waiters it serves
-- include: keys check ledger gpu reap grant

local uuid = name('gpu', ARGV[1])
if refusal then return refusal end
local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'drained', 'state', 'leased_bytes', 'budget_bytes', 'left')
if not gpu[1] then return 'unknown' end
if gpu[2] == '1' then
  call('HSET', GPU_OF .. uuid, 'drained', '0')
  index_gpu(uuid, lends[gpu[3]], math.max(0, tonumber(gpu[5]) - tonumber(gpu[4])))
  journal('undrained', 'gpu', uuid, 'host', gpu[1])
  if gpu[6] == '1' and gpu[4] == '0' then forget_gpu(uuid) end
  grew = true
end
reap()
serve()
save()
return 'undrained'
