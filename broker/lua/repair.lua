#!lua
-- Recomputes one part of what the ledger keeps beside the leases, from what it follows from; `doctor --repair` names the
-- parts. Where that would take all leases (the sums of a tenant, a host, a class) the caller says by how much the sum is
-- wrong: a difference that lasts stays right while others work.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 part and 2 its name: gpu UUID (and from 3 on ids of leases that should be on it), tenant NAME (3 bytes to add),
--        host NAME (3 bytes of memory, 4 thousandths of processors to add), class NAME (3 cards to add), lease ID,
--        waiter ID, line NAME, group NAME, ledger (queue's length and next deadline)
-- reply  how many things were mended
-- errors BROKER_INVALID
-- cost   O(what hangs on that part): for a person's repair, not for every day
-- include: keys check ledger turn
-- needs: gpu lease cards host queue wide marks

local part, what, mended = ARGV[1], ARGV[2] or '', 0
if #what < 1 or #what > 700 or string.find(what, '%c') then invalid('name', what, 'the name of that part') end

local function change_by(at)
  local text = ARGV[at] or '0'
  if not (string.match(text, '^-?%d+$') and #text <= 16) then invalid('change', text, 'a whole number') end
  return tonumber(text) or 0
end

local function mend(wrong)
  if wrong then mended = mended + 1 end
end

-- The member's score in an index, or nil: none.
local function index(key, member, score)
  local before = tonumber(call('ZSCORE', key, member) or nil)
  mend(before ~= score)
  if score then call('ZADD', key, score, member) else call('ZREM', key, member) end
end

local function hash(key, field, value)
  local before = call('HGET', key, field) or nil
  mend(before ~= value)
  if value then call('HSET', key, field, value) else call('HDEL', key, field) end
end

local function member(key, name, is)
  mend(call(is and 'SADD' or 'SREM', key, name) == 1)
end

-- A card stands in the index of its own class only.
local function index_classes(uuid, own, free)
  for _, class in ipairs(call('HKEYS', CLASSES)) do
    index(FREE .. '@' .. class, uuid, class == own and free or nil)
  end
  if own and own ~= '' and call('HEXISTS', CLASSES, own) == 0 then index(FREE .. '@' .. own, uuid, free) end
end

local function leave_all_indexes(uuid)
  member(GPUS, uuid, false)
  for _, key in ipairs({ FREE, RESERVED, CAPACITY, FRESH }) do index(key, uuid, nil) end
  index_classes(uuid)
end

-- What is leased of a card, by the leases themselves.
local function leased_of(uuid)
  local ids, leased = {}, 0
  for _, field in ipairs(call('HKEYS', GPU_OF .. uuid)) do
    local id = string.match(field, '^lease:(.+)$')
    if id then ids[id] = true end
  end
  for i = 3, #ARGV do ids[ARGV[i]] = true end
  for id in pairs(ids) do
    local lease = read_lease(id)
    local there = lease and string.find(',' .. lease.gpus .. ',', ',' .. uuid .. ',', 1, true)
    hash(GPU_OF .. uuid, 'lease:' .. id, there and int(lease.bytes) or nil)
    if there then leased = leased + lease.bytes end
  end
  return leased
end

local parts = {}

function parts.gpu(uuid)
  local card = read_card(uuid)
  if not card then return leave_all_indexes(uuid) end
  card.leased = leased_of(uuid)
  local kept = card.reserved ~= '' and call('HGET', WAITER_OF .. card.reserved, 'reserved_gpus') or ''
  if card.reserved ~= '' and not string.find(',' .. kept .. ',', ',' .. uuid .. ',', 1, true) then
    mend(true)
    call('HDEL', GPU_OF .. uuid, 'reserved_for', 'reserved_bytes')
    card.reserved = ''
  end
  local by, key = call('HGET', GPU_OF .. uuid, 'drained_by') or '', GPU_OF .. uuid
  local hosts = call('HGET', HOST_OF .. card.host, 'drained') == '1'
  by = with_mark(by, 'host', hosts)
  hash(key, 'drained_by', by)
  card.drained = by ~= ''
  hash(key, 'drained', card.drained and '1' or '0')
  hash(key, 'leased_bytes', int(card.leased))
  hash(key, 'free_bytes', int(math.max(0, card.budget - card.leased)))
  hash(key, 'short_bytes', int(math.max(0, card.leased - card.budget)))
  local free, open = math.max(0, card.budget - card.leased), lends(card.state) and not card.drained
  index(RESERVED, uuid, card.reserved ~= '' and free or nil)
  local offered = open and free > 0 and card.reserved == '' and free or nil
  index(FREE, uuid, offered)
  index_classes(uuid, card.class, offered)
  index(CAPACITY, uuid, card.capacity)
  if card.state ~= 'UNAVAILABLE' or call('ZSCORE', FRESH, uuid) then index(FRESH, uuid, due(card.fresh_until)) end
  member(GPUS, uuid, true)
  if card.peers > 1 then widen_host(card.host) end
end

function parts.tenant(who, bytes)
  if bytes ~= 0 then
    mend(true)
    call('HINCRBY', TENANT_OF .. who, 'leased_bytes', bytes)
  end
  member(TENANTS, who, call('EXISTS', TENANT_OF .. who) == 1)
end

function parts.host(host, memory, cpus)
  if memory ~= 0 or cpus ~= 0 then
    mend(true)
    call('HINCRBY', HOST_OF .. host, 'leased_memory_bytes', memory)
    call('HINCRBY', HOST_OF .. host, 'leased_cpus_milli', cpus)
  end
  local kept = call('HGET', HOST_OF .. host, 'kept_for')
  if kept and call('HGET', WAITER_OF .. kept, 'reserved_host') ~= host then
    mend(true)
    call('HDEL', HOST_OF .. host, 'kept_for', 'kept_memory_bytes', 'kept_cpus_milli')
  end
  if #host_gpus(host) > 0 then
    mend(true)
    return widen_host(host)
  end
  for k = 2, 16 do index(WIDE, host .. '#' .. k, nil) end
end

function parts.class(class, cards)
  mend(cards ~= 0)
  if cards ~= 0 and call('HINCRBY', CLASSES, class, cards) <= 0 then call('HDEL', CLASSES, class) end
  for _, uuid in ipairs(call('ZRANGE', FREE .. '@' .. class, 0, -1)) do
    if call('HGET', GPU_OF .. uuid, 'class') ~= class then index(FREE .. '@' .. class, uuid, nil) end
  end
end

function parts.lease(id)
  local lease = read_lease(id)
  if not lease then return index(LEASES, id, nil) end
  if lease.state ~= 'reclaiming' then
    index(LEASES, id, due(lease.expires_at))
  elseif not call('ZSCORE', LEASES, id) then
    index(LEASES, id, due(now + setting_ms('reclaim_seconds', 5)))
  end
end

-- A line's waiters, its place among those of its group, and the group's own mark.
function parts.line(line)
  local group = string.match(line, '^(.-)|') or line
  for _, id in ipairs(call('ZRANGE', LINE_OF .. line, 0, -1)) do
    local place = call('HGET', WAITER_OF .. id, 'line') == line and call('ZSCORE', WAITERS, id)
    index(LINE_OF .. line, id, place and tonumber(place) or nil)
  end
  local first = call('ZRANGE', LINE_OF .. line, 0, 0, 'WITHSCORES')[2]
  index(LINES_OF .. group, line, first and tonumber(first) or nil)
  parts.group(group)
end

function parts.group(group)
  if string.sub(group, 1, 4) == 'sel:' then member(GROUPS, group, call('EXISTS', LINES_OF .. group) == 1) end
end

-- One whose hash or place was lost is taken out: its caller asks again at its next sign of life.
function parts.waiter(id)
  local waiter, place = read_waiter(id), call('ZSCORE', WAITERS, id)
  if not waiter or not place or waiter.grows and (id ~= waiter.grows .. '+' or not read_lease(waiter.grows)) then
    mend(true)
    if place then remove_waiter(id, 'repaired') end
    for _, key in ipairs({ WAITERS, WAITING }) do call('ZREM', key, id) end
    if waiter then unreserve(id, 'repaired') end
    call('DEL', WAITER_OF .. id)
    return waiter and parts.line(waiter.line)
  end
  place = -tonumber(waiter.priority) * PRIORITY + tonumber(place) % PRIORITY
  index(WAITERS, id, place)
  local deadline = tonumber(call('HGET', WAITER_OF .. id, 'deadline') or '') or now + setting_ms('waiter_seconds', 30)
  index(WAITING, id, due(deadline))
  index(LINE_OF .. waiter.line, id, place)
  for uuid in string.gmatch(waiter.reserved, '[^,]+') do
    if call('HGET', GPU_OF .. uuid, 'reserved_for') ~= id then
      mend(true)
      unreserve(id, 'repaired')
      break
    end
  end
  parts.line(waiter.line)
end

function parts.ledger()
  local before = soonest
  for _, deadlines in ipairs({ LEASES, FRESH, WAITING }) do
    due(tonumber(call('ZRANGE', deadlines, 0, 0, 'WITHSCORES')[2] or 9007199254740991))
  end
  mend(soonest ~= before)
end

if not parts[part] then invalid('part', part, 'gpu, tenant, host, class, lease, waiter, line, group or ledger') end
local more, further = 0, 0
if part == 'tenant' or part == 'host' or part == 'class' then more, further = change_by(3), change_by(4) end
if refusal then return refusal end
parts[part](what, more, further)
if part == 'ledger' then mend(queued ~= call('ZCARD', WAITERS)) end
if part == 'ledger' or part == 'waiter' then queued = call('ZCARD', WAITERS) end
if mended > 0 then
  journal('repaired', part, what, 'mended', int(mended))
  grown['*'] = '-inf'
end
reap()
serve()
save()
return int(mended)
