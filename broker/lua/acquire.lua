#!lua
-- Lends memory of one or more GPUs of one host, or queues the request, or says why not. Asked again under the same name
-- it returns the same lease (law 4); asked again by a waiter it is the waiter's heartbeat, and its claim once it was
-- granted.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)
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
-- include: keys check ledger asks request gpu totals tenant place grant turn
-- needs: queue possible preempt lease crew

local ask = read_request(ARGV[1], 2)
if ARGV[11] ~= '' then whole('token', ARGV[11], 1, 9007199254740991) end
if ARGV[12] ~= '0' and ARGV[12] ~= '1' then invalid('wait', ARGV[12], '0 or 1') end
if refusal then return refusal end
local may_wait = ARGV[12] == '1'

local function conflict(asked)
  return redis.error_reply('BROKER_LEASE_CONFLICT lease=' .. ask.id .. ' asked=' .. asked .. ' now=' .. ask.request)
end

-- The name's own lease, if there is one. Every error leaves before the first write (law 2).
local function existing()
  local lease = call('HMGET', LEASE_OF .. ask.id, 'request', 'token', 'state', 'expires_at', 'gpu_uuids', 'host',
    'waited_ms', 'ttl_ms', 'memory_bytes', 'choice', 'revoke_at', 'worker')
  if not lease[1] then
    return nil, ARGV[11] ~= '' and redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. ask.id) or nil
  end
  if ARGV[11] ~= '' and ARGV[11] ~= lease[2] then
    return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. ask.id .. ' got=' .. ARGV[11])
  end
  if lease[1] ~= ask.request then return nil, conflict(lease[1]) end
  local over = lease[3] == 'active' and tonumber(lease[4]) <= now and now >= grace_until
  if lease[3] == 'reclaiming' or over then
    return nil, redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=expired')
  end
  return lease
end

-- Whether a call is this one, or a later one of the same client.
local function not_before(nonce)
  if nonce == ask.nonce then return true end
  local client, number = string.match(nonce, '^(%w+)%-(%d+)$')
  local own, mine = string.match(ask.nonce, '^(%w+)%-(%d+)$')
  return client ~= nil and client == own and tonumber(mine) < tonumber(number)
end

-- A copy of a call that comes after its lease's end, or after it was refused or taken back, takes nothing: nobody is there
-- to hold it. Returns an error, and whether it is refused again.
local function answered_before()
  local ended = ask.nonce ~= '' and call('GET', ENDED_OF .. ask.id)
  if not ended then return nil, false end
  local how, nonce, refused = string.match(ended, '^%d+ (%a+) (%S*) ?(%S*)$')
  if not_before(refused) then return nil, true end
  return not_before(nonce) and redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=' .. how) or nil, false
end

-- The waiter was granted this lease and is here to take it: from now on its own TTL runs.
local function claim(lease)
  local expires = now + ask.ttl_ms
  if lease[11] then expires = math.min(expires, math.max(tonumber(lease[11]), now + 1)) end
  lease[4], lease[8] = int(expires), int(ask.ttl_ms)
  call('HSET', LEASE_OF .. ask.id, 'state', 'active', 'expires_at', lease[4], 'ttl_ms', int(ask.ttl_ms))
  call('ZADD', LEASES, due(expires), ask.id)
  call('DEL', WAKE_OF .. ask.id)
  journal('claimed', 'id', ask.id, 'token', lease[2])
  save()
end

local function answer(lease)
  return { 'granted', lease[2], lease[5], lease[6], lease[4], lease[7], lease[8], int(tonumber(lease[4]) - now), lease[9],
    lease[10] or '1', totals_of(lease[5]) }
end

-- The caller's own seat, if it is its still: it may have been handed a request before, which it is to hear of first.
local function caller()
  if ask.seat == '' then return nil end
  if call('EXISTS', WAKE_OF .. '@' .. string.match(ask.seat, '^%S+ (%S+)')) == 1 then return nil end
  if ask.sits and not call('ZSCORE', CREW_OF .. '#' .. ask.crew, ask.seat) then return nil end
  return take_seat(ask.seat)
end

local function waiting(place_in_queue)
  local handed = ask.seat ~= '' and call('LINDEX', WAKE_OF .. '@' .. string.match(ask.seat, '^%S+ (%S+)'), 0)
  return { 'waiting', int(place_in_queue), handed or '' }
end

local lease, refused = existing()
if refused then return refused end
if lease and lease[12] and lease[12] ~= string.match(ask.seat, '^%S+ (%S+)') then return waiting(0) end
if lease then
  if lease[3] == 'granted' then claim(lease) end
  return answer(lease)
end
local waiter = queued > 0 and read_waiter(ask.id) or nil
if waiter and waiter.request ~= ask.request then return conflict(waiter.request) end
local again = false
if not waiter then refused, again = answered_before() end
if refused then return refused end

-- From here on there are no errors, only answers.
local own = caller()
if waiter then show_life(ask.id, ask.crew ~= '' and ask.crew or nil) end
reap()
serve()
lease = waiter and existing()
if lease then -- served just now, by this very script
  claim(lease)
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
      return waiting(0)
    end
    rise(ask.seat)
    ask.worker = string.match(ask.seat, '^%S+ (%S+)')
  end
  local granted, expires, uuids = grant(ask, placed, 'active', ask.ttl_ms, waited)
  if waiter then serve() end -- from cards that were kept for it, if it got others
  save()
  return { 'granted', granted, uuids, placed.cards[1].host, expires, int(waited), ARGV[3], ARGV[3], int(placed.bytes),
    int(placed.choice), totals_of(uuids) }
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
  return waiting(call('ZRANK', WAITERS, ask.id) + 1)
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
