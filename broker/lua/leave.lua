#!lua flags=allow-oom
-- An agent says goodbye: its GPUs lend nothing more, and each is forgotten once no lease is on it.
--
-- KEYS   the pool's keys
-- ARGV   1 host
-- reply  left | unknown
-- errors BROKER_INVALID
-- cost   O(log n) for each of the host's GPUs, at most 64
-- include: keys check ledger gpu reap grant

local host = name('host', ARGV[1])
if refusal then return refusal end
local gpus = call('HGET', HOST_OF .. host, 'gpus')
if not gpus then return 'unknown' end
for uuid in string.gmatch(gpus, '%S+') do
  local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'leased_bytes', 'drained')
  if gpu[1] == host then
    close_gpu(uuid, host, gpu[2], 'agent left')
    if gpu[3] == '0' and gpu[4] ~= '1' then forget_gpu(uuid) else call('HSET', GPU_OF .. uuid, 'left', '1') end
  end
end
call('PEXPIRE', METRICS_OF .. host, 86400000) -- its history may be looked at for a day
call('SREM', HOSTS, host)
call('DEL', HOST_OF .. host)
journal('left', 'host', host)
reap()
serve()
save()
return 'left'
