#!lua
-- A worker takes what it was handed: from now on the lease's own TTL runs. Asked again it gets the same reply.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 worker
-- reply  granted token gpu_uuids host expires_at_ms waited_ms ttl_ms left_ms memory_bytes choice
--                total_bytes (as acquire says), then of its request:
--        crew job_id tenant owner pid priority host_memory cpus function request
-- errors BROKER_INVALID
--        BROKER_LEASE_NOT_FOUND (the grant ran out, was taken back, or is another worker's)
-- cost   O(log n)
-- include: keys check ledger totals turn

local id, worker = name('lease_id', ARGV[1]), name('worker', ARGV[2])
if refusal then return refusal end
local f = call('HMGET', LEASE_OF .. id, 'token', 'gpu_uuids', 'host', 'expires_at', 'waited_ms', 'ttl_ms', 'memory_bytes',
  'choice', 'crew', 'job_id', 'tenant', 'owner', 'pid', 'priority', 'host_memory_bytes', 'cpus_milli', 'function', 'request',
  'state', 'worker', 'revoke_at')
call('LREM', WAKE_OF .. '@' .. worker, 0, id) -- it heard
local over = f[1] and tonumber(f[4]) <= now and now >= grace_until
if f[20] ~= worker or over or (f[19] ~= 'granted' and f[19] ~= 'active') then
  return redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. id)
end
if f[19] == 'granted' then
  local expires = now + tonumber(f[6])
  if f[21] then expires = math.min(expires, math.max(tonumber(f[21]), now + 1)) end
  f[4] = int(expires)
  call('HSET', LEASE_OF .. id, 'state', 'active', 'expires_at', f[4])
  call('ZADD', LEASES, due(expires), id)
  journal('claimed', 'id', id, 'token', f[1])
end
reap()
serve()
save()
local reply = { 'granted', f[1], f[2], f[3], f[4], f[5], f[6], int(tonumber(f[4]) - now), f[7], f[8] or '1',
  totals_of(f[2]) }
for i = 9, 18 do reply[i + 3] = f[i] or '' end
return reply
