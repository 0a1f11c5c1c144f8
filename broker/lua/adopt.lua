#!lua
-- Makes a lease of the memory that a running process has: what it was counted with as unmanaged becomes the lease's. The
-- agent that sees the process renews it, until the process is gone.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 pid  3 memory_bytes  4 ttl_ms  5 host  6 gpu uuid or '' (the one on which it has most)  7 tenant  8 owner
--        9 when the process began, in the words of its host, or ''
-- reply  granted token gpu_uuids host expires_at_ms waited_ms ttl_ms left_ms memory_bytes choice
--                total_bytes           (as acquire says)
--        unknown                       (no agent has seen that process on a card of that host)
--        refused free_bytes            (beyond what the process has already)
-- errors BROKER_INVALID  BROKER_LEASE_CONFLICT  BROKER_LEASE_LOST
-- cost   O(log n) for each card of the host, at most 64
-- include: keys check ledger totals turn
-- needs: asks gpu cards tenant grant claimed wide place

local ask = completed({ id = name('lease_id', ARGV[1]), pid = ARGV[2], asks = ARGV[3], host = name('host', ARGV[5]),
  gpu = name('gpu', ARGV[6], true), tenant = name('tenant', ARGV[7]), owner = name('owner', ARGV[8]),
  pid_started = name('pid_started', ARGV[9] or '', true), priority = '0', job_id = '', labels = '', capability = '',
  mig = '', placement = '', host_memory = 0, cpus = 0, func = 'adopted', nonce = '', reserved = '', adopted = '1' })
whole('pid', ARGV[2], 1, 4194304)
local bytes = whole('memory', ARGV[3], 1, 4398046511104)
ask.ttl_ms = whole('ttl_ms', ARGV[4], 100, 86400000)
if refusal then return refusal end
ask.request = 'adopted|' .. ARGV[2] .. '|' .. ARGV[3]

local known = call('HMGET', LEASE_OF .. ask.id, 'request', 'token', 'gpu_uuids', 'host', 'expires_at', 'ttl_ms',
  'state')
if known[1] and known[1] ~= ask.request then
  return redis.error_reply('BROKER_LEASE_CONFLICT lease=' .. ask.id .. ' asked=' .. known[1] .. ' now=' .. ask.request)
end
if known[7] == 'reclaiming' then return redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=expired') end
if known[1] then
  return { 'granted', known[2], known[3], known[4], known[5], '0', known[6], int(tonumber(known[5]) - now), ARGV[3], '1',
    totals_of(known[3]) }
end
local waits = call('HGET', WAITER_OF .. ask.id, 'request')
if waits then
  return redis.error_reply('BROKER_LEASE_CONFLICT lease=' .. ask.id .. ' asked=' .. waits .. ' now=' .. ask.request)
end
local best, most = nil, 0
for _, uuid in ipairs(ask.gpu ~= '' and { ask.gpu } or host_gpus(ask.host)) do
  local seen = unmanaged_of(uuid, ask.pid)
  if seen > most then best, most = uuid, seen end
end
local card = best and read_card(best)
if not card or card.host ~= ask.host then return { 'unknown' } end
local free = math.max(0, math.min(card.capacity, card.budget + math.min(bytes, most)) - card.leased)
local anew = bytes - most -- beyond what the process has, only where the memory would be lent to anybody else
if bytes > free or settling or not within_quota(tenant_of(ask.tenant), bytes) or anew > 0 and obstacle(ask, card, anew) then
  return { 'refused', int(free) }
end

claim_unmanaged(card, ask.pid, bytes)
local granted, expires = grant(ask, { cards = { card }, bytes = bytes, choice = 1 }, 'active', ask.ttl_ms, 0, 'adopted')
reap()
serve()
save()
return { 'granted', granted, card.uuid, card.host, expires, '0', ARGV[4], ARGV[4], ARGV[3], '1', totals_of(card.uuid) }
