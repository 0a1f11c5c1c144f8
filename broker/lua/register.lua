#!lua
-- law 11: a holder tells a ledger that lost its lease what it holds. While the ledger settles, what was lent before is
-- taken as it is; later only what there is room for.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 token  3 gpu uuids joined by commas  4 memory_bytes of each  5 ttl_ms  6 tenant  7 owner  8 pid or ''
--        9 priority  10 job_id or ''  11 host_memory bytes  12 cpus in thousandths  13 function or ''  14 the request's
--        text, so that acquire finds it again, or ''
-- reply  registered expires_at_ms      (also if it is there under this token)
--        unknown                       (a card is not known yet: its agent will tell; ask again)
--        refused why
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST
-- cost   O(log n) for each card, at most 16
-- include: keys check ledger turn gpu
-- needs: host tenant grant claimed cards queue

local ask = { id = name('lease_id', ARGV[1]), tenant = name('tenant', ARGV[6]), owner = name('owner', ARGV[7]),
  pid = ARGV[8] or '', priority = ARGV[9] or '', job_id = name('job_id', ARGV[10] or '', true), func = ARGV[13] or '',
  request = ARGV[14] or '', nonce = '', registered = '1' }
local held = whole('token', ARGV[2], 1, 9007199254740991)
local bytes = whole('memory', ARGV[4], 1, 4398046511104)
ask.ttl_ms = whole('ttl_ms', ARGV[5], 100, 86400000)
if ask.pid ~= '' then whole('pid', ask.pid, 1, 4194304) end
if not string.match(ask.priority, '^-?%d+$') or #ask.priority > 5 then invalid('priority', ask.priority, 'a whole number') end
ask.host_memory = whole('host_memory', ARGV[11], 0, 1125899906842624)
ask.cpus = whole('cpus', ARGV[12], 0, 100000000)
name('function', ask.func, true)
if #ask.request > 1000 or string.find(ask.request, '%c') then invalid('request', ask.request, 'one line') end
local uuids, seen = {}, {}
for uuid in string.gmatch(ARGV[3] or '', '[^,]+') do
  if seen[uuid] then invalid('gpus', uuid, 'each card once') end
  seen[uuid] = true
  table.insert(uuids, name('gpu', uuid))
end
if #uuids < 1 or #uuids > WIDEST then invalid('gpus', ARGV[3], '1 to 16 UUIDs') end
if refusal then return refusal end

local there = call('HMGET', LEASE_OF .. ask.id, 'token', 'state', 'expires_at')
if there[1] then
  if there[1] ~= ARGV[2] then
    return redis.error_reply('BROKER_STALE_TOKEN lease=' .. ask.id .. ' got=' .. ARGV[2])
  end
  if there[2] == 'reclaiming' then return redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=expired') end
  return { 'registered', there[3] }
end
local ended, how = string.match(call('GET', ENDED_OF .. ask.id) or '', '^(%d+) (%a+)')
if ended == ARGV[2] then return redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=' .. how) end
local began = (epoch or tonumber(call('HGET', LEDGER, 'epoch') or 0)) * 8388608
if held >= began then return redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=ended') end

local cards, host = {}, nil
for i, uuid in ipairs(uuids) do
  local card = read_card(uuid)
  if not card then return { 'unknown' } end
  if host and card.host ~= host then return { 'refused', 'its cards are not on one host any more' } end
  cards[i], host = card, card.host
  local room = settling and card.capacity or math.min(card.capacity, card.budget + unmanaged_of(uuid, ask.pid))
  if card.leased + bytes > room then return { 'refused', 'no room on ' .. uuid } end
end
if not settling and (host_lacks(ask, host) or not within_quota(tenant_of(ask.tenant), bytes * #uuids)) then
  return { 'refused', 'no room on ' .. host }
end
for _, card in ipairs(cards) do
  claim_unmanaged(card, ask.pid, bytes)
  if settling then -- its memory may yet be counted as a stranger's: the next sample tells them apart
    card.budget = math.max(card.budget, math.min(card.capacity, card.leased + bytes))
    call('HSET', GPU_OF .. card.uuid, 'budget_bytes', int(card.budget))
  end
end
if queued > 0 then remove_waiter(ask.id, 'registered') end -- it has what it waited for
local _, expires = grant(ask, { cards = cards, bytes = bytes, choice = 1 }, 'active', ask.ttl_ms, 0, 'registered', ARGV[2])
reap()
serve()
save()
return { 'registered', expires }
