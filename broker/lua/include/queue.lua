-- The queue. Waiters stand in lines: one for each group (who can be served from the same cards), tenant and size, so that
-- a script finds whom a card can serve without reading those whom it cannot.
-- needs: keys ledger asks cards wide choose crew
-- gives: read_waiter size_of_line least_of_line group_of least_bytes enqueue remove_waiter show_life groups_of

-- A queued request, or nil.
function read_waiter(id)
  local w = call('HMGET', WAITER_OF .. id, 'asks', 'ttl_ms', 'host', 'gpu', 'priority', 'tenant', 'owner', 'job_id', 'pid',
    'request', 'since', 'bypassed', 'labels', 'capability', 'mig', 'host_memory_bytes', 'cpus_milli', 'placement',
    'function', 'nonce', 'grows', 'line', 'reserved_gpus', 'crew')
  if not w[1] then return nil end
  return completed({ id = id, asks = w[1], ttl_ms = tonumber(w[2]), host = w[3], gpu = w[4], priority = w[5],
    tenant = w[6], owner = w[7], job_id = w[8], pid = w[9], request = w[10], since = tonumber(w[11]),
    bypassed = tonumber(w[12]), labels = w[13] or '', capability = w[14] or '', mig = w[15] or '',
    host_memory = tonumber(w[16] or 0), cpus = tonumber(w[17] or 0), placement = w[18] or '', func = w[19] or '',
    nonce = w[20] or '', grows = w[21], line = w[22], reserved = w[23] or '', crew = w[24] })
end

-- Four sizes to the octave: who stands in a line with a smaller number fits where a larger one does.
function size_of_line(bytes)
  return math.floor(math.log(bytes) / math.log(2) * 4)
end

-- The least that who stands in a line may want.
function least_of_line(size)
  return math.floor(2 ^ (size / 4))
end

function group_of(ask)
  if ask.crew ~= '' then return 'crew:' .. ask.crew end
  -- A lease on several cards may grow when any of them has room.
  if ask.gpu ~= '' and not string.find(ask.gpu, ',', 1, true) then return 'gpu:' .. ask.gpu end
  if ask.host ~= '' then return 'host:' .. ask.host end
  return ask.plain and 'any' or 'sel:' .. ask.selector
end

-- What the least of its alternatives takes of one card.
function least_bytes(ask)
  local least = math.huge
  for _, want in ipairs(ask.wants) do least = math.min(least, want.bytes) end
  return least
end

function enqueue(ask)
  arrivals, queued, turns = arrivals + 1, queued + 1, turns + 1
  local score, group = -tonumber(ask.priority) * PRIORITY + arrivals, group_of(ask)
  ask.line, ask.since, ask.bypassed, ask.reserved = group .. '|' .. ask.tenant .. '|' .. size_of_line(least_bytes(ask)), now, 0, ''
  local fields = { 'id', ask.id, 'asks', ask.asks, 'memory_bytes', int(ask.wants[1].bytes), 'gpus', int(ask.wants[1].count),
    'ttl_ms', int(ask.ttl_ms), 'host', ask.host, 'gpu', ask.gpu, 'priority', ask.priority, 'tenant', ask.tenant,
    'owner', ask.owner, 'job_id', ask.job_id, 'pid', ask.pid, 'request', ask.request, 'since', int(now),
    'bypassed', '0', 'line', ask.line }
  for field, value in pairs({ labels = ask.labels, capability = ask.capability, mig = ask.mig, placement = ask.placement,
    ['function'] = ask.func, nonce = ask.nonce, grows = ask.grows or '', crew = ask.crew,
    host_memory_bytes = ask.host_memory > 0 and int(ask.host_memory) or '',
    cpus_milli = ask.cpus > 0 and int(ask.cpus) or '' }) do
    if value ~= '' then
      table.insert(fields, field)
      table.insert(fields, value)
    end
  end
  call('HSET', WAITER_OF .. ask.id, unpack(fields))
  call('ZADD', WAITERS, score, ask.id)
  call('ZADD', LINE_OF .. ask.line, score, ask.id)
  if call('ZADD', LINES_OF .. group, 'LT', score, ask.line) == 1 and string.sub(group, 1, 4) == 'sel:' then
    call('SADD', GROUPS, group)
  end
end

-- Takes a waiter out of the queue, its line and its reservation.
function remove_waiter(id, why)
  local line = call('HGET', WAITER_OF .. id, 'line')
  call('ZREM', WAITING, id)
  if call('ZREM', WAITERS, id) == 0 then return end
  queued, turns = math.max(0, queued - 1), turns + 1
  unreserve(id, why)
  call('DEL', WAITER_OF .. id)
  if not line then return end
  local group = string.match(line, '^(.-)|')
  call('ZREM', LINE_OF .. line, id)
  local first = call('ZRANGE', LINE_OF .. line, 0, 0, 'WITHSCORES')
  if first[1] then
    call('ZADD', LINES_OF .. group, first[2], line)
  else
    call('ZREM', LINES_OF .. group, line)
    if string.sub(group, 1, 4) == 'sel:' and call('EXISTS', LINES_OF .. group) == 0 then call('SREM', GROUPS, group) end
  end
end

-- A waiter that is silent for longer than this is dropped. For one of a crew its workers speak: it is looked at less often.
function show_life(id, crew)
  local deadline = due(now + setting_ms('waiter_seconds', 30) * (crew and 4 or 1))
  call('ZADD', WAITING, deadline, id)
  call('HSET', WAITER_OF .. id, 'deadline', int(deadline))
end

-- The groups of waiters that could be served from a card of this class: of 64 that select by class those that it suits.
local selecting, suited = nil, {} -- read once a script, and once for each class
function groups_of(card)
  if not selecting then selecting = call('SRANDMEMBER', GROUPS, 64) end
  if not suited[card.class] then
    suited[card.class] = {}
    for _, group in ipairs(selecting) do
      local capability, mig, labels = string.match(group, '^sel:(.-);(.-);(.*)$')
      if suits({ capability = capability, mig = mig, labels = labels }, card.class) then
        table.insert(suited[card.class], group)
      end
    end
  end
  local groups = { 'any', 'host:' .. card.host, 'gpu:' .. card.uuid, unpack(suited[card.class]) }
  for _, crew in ipairs(crews_of(card.host)) do
    if seat_at(crew, card.host) then table.insert(groups, 'crew:' .. crew) end
  end
  return groups
end
