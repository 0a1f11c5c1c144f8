#!lua
-- Lends memory of one or more GPUs of one host, or queues the request, or says why not. Asked again under the same name
-- it returns the same lease (law 4); asked again by a waiter it is the waiter's heartbeat, and its claim once it was
-- granted.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 bytes of a GPU, or COUNTxBYTES, or up to 8 such joined by commas, best first  3 ttl_ms  4 host or ''
--        5 gpu uuid or ''  6 priority -1000..1000  7 tenant  8 owner  9 job_id or ''  10 pid or ''
--        11 token or '' (continue that lease only)  12 wait: 1 queue, 0 do not; then names and values in turn:
--        placement balanced, pack, spread or cool; labels k=v,k=v; capability 8.6 (at least); mig any, none, only or a
--        profile; host_memory bytes; cpus thousandths; function name; nonce: a text of this very call's own; crew: only
--        where a worker of that queue sits idle; seat "HOST WORKER QUEUE,QUEUE": the caller is such a worker, and sits 1:
--        it sat and waited (see attend.lua)
-- reply  granted token gpu_uuids host expires_at_ms waited_ms ttl_ms left_ms memory_bytes choice
--                total_bytes           (of each GPU's whole memory, joined by commas; 0: not known)
--        waiting place handed          (place in the queue, 1 is next; 0: it was handed to another worker of its crew;
--                 handed: a lease that was handed to the caller's own seat instead, or '')
--        refused largest_free_bytes largest_capacity_bytes gpus_with_room why   (of those the request may use; why: ''
--                 nothing free, quota, settling, or what the pool has not got at all: see include/possible.lua)
--        impossible largest_capacity_bytes why   ('' larger than any card, quota, host_memory, cpus, cards, gpu)
--        full waiters                  (the queue's cap is reached)
-- errors BROKER_INVALID  BROKER_LEASE_CONFLICT  BROKER_LEASE_LOST  BROKER_STALE_TOKEN  BROKER_LEASE_NOT_FOUND
-- cost   O(log n) in GPUs, leases and waiters, plus what it changes
-- include: keys check ledger asks request gpu tenant place grant turn
-- needs: queue possible preempt copies crew known

local ask = read_request(ARGV[1], 2)
if ask.token ~= '' then whole('token', ask.token, 1, 9007199254740991) end
if ARGV[12] ~= '0' and ARGV[12] ~= '1' then invalid('wait', ARGV[12], '0 or 1') end
if refusal then return refusal end
local may_wait = ARGV[12] == '1'

-- Most names were never heard of: one look tells.
local waiter, again = nil, false
if ask.token ~= '' or call('EXISTS', LEASE_OF .. ask.id, WAITER_OF .. ask.id, ENDED_OF .. ask.id) > 0 then
  local reply
  reply, waiter, again = look_up(ask)
  if reply then return reply end
end

-- From here on there are no errors, only answers.
local own = ask.seat ~= '' and caller(ask) or nil
if waiter then show_life(ask.id, ask.crew ~= '' and ask.crew or nil) end
reap()
serve()
local lease = waiter and existing(ask)
if lease then -- served just now, by this very script
  claim(ask, lease)
  return answer(lease)
end
if waiter then
  waiter = read_waiter(ask.id) -- it may have been given a reservation on the way
  ask.line, ask.reserved = waiter.line, waiter.reserved
end

local score = waiter and tonumber(call('ZSCORE', WAITERS, ask.id)) or -tonumber(ask.priority) * PRIORITY + arrivals + 1
local placed, why
if not again then placed, why = place(ask, score) end
if placed then
  local waited = 0
  if waiter then
    waited = now - waiter.since
    remove_waiter(ask.id, 'served')
  end
  if ask.crew ~= '' then
    if not own or seat_at(ask.crew, placed.cards[1].host) ~= ask.seat then
      hand_to_worker(ask, placed, waited)
      save()
      return waiting(ask, 0)
    end
    rise(ask.seat)
    ask.worker = string.match(ask.seat, '^%S+ (%S+)')
  end
  local granted, expires, uuids = grant(ask, placed, 'active', ask.ttl_ms, waited)
  if waiter then serve() end -- from cards that were kept for it, if it got others
  save()
  local totals = placed.cards[1].total
  for i = 2, #placed.cards do totals = totals .. ',' .. placed.cards[i].total end
  return { 'granted', granted, uuids, placed.cards[1].host, expires, int(waited), ARGV[3], ARGV[3], int(placed.bytes),
    int(placed.choice), totals }
end

local never, capacity, comes = never_fits(ask)
-- What may come, a host that starts anew for instance, is waited for; and one who waits for any host is not sent away.
if never and not comes and not (waiter and ask.host == '' and ask.gpu == '') then
  if waiter then
    remove_waiter(ask.id, 'impossible')
    journal('cancelled', 'id', ask.id, 'reason', 'it can never be: ' .. never)
    serve()
  end
  save()
  return { 'impossible', int(capacity), never == 'size' and '' or never }
end

if may_wait and not again then
  local waiters_max = not waiter and setting('waiters_max', 10000)
  if waiters_max and queued >= waiters_max then
    save()
    return { 'full', int(waiters_max) }
  elseif not waiter then
    enqueue(ask)
    show_life(ask.id, ask.crew ~= '' and ask.crew or nil)
    journal('queued', 'id', ask.id, 'memory_bytes', int(ask.wants[1].bytes), 'asks', ask.asks, 'host', ask.host,
      'gpu', ask.gpu, 'priority', ask.priority, 'tenant', ask.tenant, 'owner', ask.owner, 'job_id', ask.job_id)
    if settling then grown['=' .. group_of(ask)] = group_of(ask) end -- looked at when holders had their time
  end
  preempt(ask, score)
  save()
  return waiting(ask, call('ZRANK', WAITERS, ask.id) + 1)
end

if waiter then
  remove_waiter(ask.id, 'gave up')
  journal('cancelled', 'id', ask.id, 'reason', 'waited long enough')
  serve()
end
forgo(ask.id, ask.nonce)
local free, open = room_for(ask)
save()
return { 'refused', int(free), int(capacity), int(open), never or why or '' }
