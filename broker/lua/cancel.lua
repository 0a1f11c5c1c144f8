#!lua flags=allow-oom
-- Takes a request back: its waiter leaves the queue, and a grant that it has not claimed yet moves on.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 the nonce under which it was asked for, or '' for whoever asked (an operator's way)
-- reply  cancelled | claimed (it holds a lease: release that) | unknown
-- errors BROKER_INVALID
-- cost   O(log n), plus the waiters it serves
-- include: keys check ledger turn
-- needs: queue lease copies

local id = name('lease_id', (string.gsub(ARGV[1] or '', '%+$', '')))
local nonce = ARGV[2] or ''
nonce_text(nonce)
if refusal then return refusal end
id = ARGV[1] -- the growth of a lease waits under its name and a plus sign
local answer = 'unknown'
local lease = read_lease(id)
local waiter = not lease and read_waiter(id)
if lease and (nonce == '' or nonce == lease.nonce) and lease.state == 'granted' then
  answer = 'cancelled'
  call('DEL', WAKE_OF .. id)
  end_lease(lease, 'cancelled', 'released')
elseif lease and (nonce == '' or nonce == lease.nonce) then
  answer = 'claimed'
elseif waiter and (nonce == '' or nonce == waiter.nonce) then
  answer = 'cancelled'
  remove_waiter(id, 'cancelled')
  if waiter.grows then hear(waiter.grows, waiter.nonce) else forgo(id, waiter.nonce) end
  journal('cancelled', 'id', id, 'reason', 'taken back')
elseif not lease and not waiter then
  forgo(id, nonce) -- it may have overtaken the call that it takes back
end
reap()
serve()
save()
return answer
