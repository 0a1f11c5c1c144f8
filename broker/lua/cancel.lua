#!lua flags=allow-oom
-- Takes a request back: its waiter leaves the queue, and a grant that it has not claimed yet moves on.
--
-- KEYS   the pool's keys
-- ARGV   1 id
-- reply  cancelled | claimed (it holds a lease: release that) | unknown
-- errors BROKER_INVALID
-- cost   O(log n), plus the waiters it serves
-- include: keys check ledger gpu reap grant

local id = name('lease_id', ARGV[1])
if refusal then return refusal end
local answer = 'unknown'
local lease = call('HMGET', LEASE_OF .. id, 'state', 'token', 'gpu_uuids', 'memory_bytes')
if lease[1] == 'granted' then
  answer = 'cancelled'
  call('ZREM', LEASES, id)
  call('DEL', LEASE_OF .. id, WAKE_OF .. id)
  give_back(id, lease[3], tonumber(lease[4]))
  journal('released', 'id', id, 'token', lease[2], 'gpu_uuids', lease[3], 'memory_bytes', lease[4], 'held_ms', '0')
elseif lease[1] then
  answer = 'claimed'
elseif call('ZSCORE', WAITERS, id) then
  answer = 'cancelled'
  remove_waiter(id)
  journal('cancelled', 'id', id, 'reason', 'taken back')
  grew = true
end
reap()
serve()
save()
return answer
