#!lua
-- Changes the bytes that a lease has of each of its cards. Shrinking is done at once and serves waiters; growing is done
-- where there is room, and may wait for it in the queue under the lease's name and a plus sign.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 token  3 memory_bytes of each card  4 wait: 1 queue, 0 do not  5 nonce or ''
-- reply  resized memory_bytes          (also if it has that size already; a late copy of a call is told the size it has)
--        waiting place
--        refused largest_growth_bytes  (what there is beyond what it has, on the card that has least)
--        impossible largest_capacity_bytes
--        full waiters
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n) for each of its cards, plus the waiters it serves
-- include: keys check ledger holder turn
-- needs: gpu asks queue place change copies

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
local bytes = whole('memory', ARGV[3], 1, 4398046511104)
if ARGV[4] ~= '0' and ARGV[4] ~= '1' then invalid('wait', ARGV[4], '0 or 1') end
local nonce = nonce_text(ARGV[5])
if refusal then return refusal end
local lease, refused = held_by(id, ARGV[2])
if refused then return refused end
if is_over(lease) then return lost(lease) end

local cards, capacity, room = {}, math.huge, math.huge
for uuid in string.gmatch(lease.gpus, '[^,]+') do
  local card = read_card(uuid)
  -- A card whose hash was lost owes nothing, and can take nothing either.
  if not card then return redis.error_reply('BROKER_LEASE_LOST lease=' .. id .. ' why=expired') end
  table.insert(cards, card)
  capacity, room = math.min(capacity, card.capacity), math.min(room, math.max(0, card.budget - card.leased))
end

local waiter = queued > 0 and read_waiter(id .. '+')
if waiter then show_life(waiter.id) end
reap()
serve()
lease = read_lease(id)
if waiter then waiter = read_waiter(id .. '+') end
local more = lease and bytes - lease.bytes
if waiter and more ~= waiter.wants[1].bytes then -- it asks for another size now
  remove_waiter(waiter.id, 'asked anew')
  waiter = nil
end
if not lease then -- ended by this very script
  save()
  return { 'refused', '0' }
elseif more ~= 0 and heard(id, nonce) then -- a copy that came late: the holder has gone on
  save()
  return more > 0 and { 'refused', int(room) } or { 'resized', int(lease.bytes) }
elseif more <= 0 then
  if more < 0 then
    for i, card in ipairs(cards) do cards[i] = read_card(card.uuid) end
    resize_lease(lease, cards, bytes, nonce)
    serve()
  end
  save()
  return { 'resized', int(bytes) }
elseif bytes > capacity then
  save()
  return { 'impossible', int(capacity) }
end

local growth = completed({ id = id .. '+', asks = #cards .. 'x' .. int(more), ttl_ms = lease.ttl_ms, host = lease.host,
  gpu = lease.gpus, priority = call('HGET', LEASE_OF .. id, 'priority'), tenant = lease.tenant, owner = lease.tenant,
  job_id = '', pid = '', request = 'grows', labels = '', capability = '', mig = '', host_memory = 0, cpus = 0,
  placement = '', func = lease.func, nonce = nonce, grows = id, reserved = waiter and waiter.reserved or '',
  line = waiter and waiter.line })
local score = waiter and tonumber(call('ZSCORE', WAITERS, growth.id)) or -tonumber(growth.priority) * PRIORITY + arrivals + 1
local placed = place(growth, score)
if placed then
  if waiter then remove_waiter(growth.id, 'served') end
  resize_lease(lease, placed.cards, bytes, nonce)
  if waiter then serve() end
  save()
  return { 'resized', int(bytes) }
end
if ARGV[4] == '0' then
  hear(id, nonce)
  if waiter then
    remove_waiter(growth.id, 'gave up')
    journal('cancelled', 'id', growth.id, 'reason', 'waited long enough')
    serve()
  end
  save()
  return { 'refused', int(room) }
end
if not waiter then
  if queued >= setting('waiters_max', 10000) then
    save()
    return { 'full', int(queued) }
  end
  enqueue(growth)
  show_life(growth.id)
  if settling then grown['=' .. group_of(growth)] = group_of(growth) end
  journal('queued', 'id', growth.id, 'memory_bytes', int(more), 'asks', growth.asks, 'host', lease.host,
    'gpu', lease.gpus, 'priority', growth.priority, 'tenant', lease.tenant, 'owner', lease.tenant, 'job_id', '')
end
save()
return { 'waiting', int(call('ZRANK', WAITERS, growth.id) + 1) }
