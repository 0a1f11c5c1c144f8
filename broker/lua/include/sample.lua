-- What an agent says of its cards, and of the leases on them.
-- needs: keys check ledger gpu cards wide tenant host lease queue choose marks
-- shares: FIELDS WORDS
-- gives: read_report read_verdict read_vitals read_caps publish take_verdict

local SPEEDS = { OPTIMAL = '1.0', NORMAL = '0.8', THROTTLED = '0.5', CRITICAL = '0.0', UNAVAILABLE = '0.0' }
FIELDS, WORDS = 22, 6 -- arguments for each GPU, and for each lease

local MARKED = { [''] = true, health = true, people = true, ['health,people'] = true }

-- Names and values in turn, parted by blanks.
local function pairs_of(field, text)
  local words = {}
  if #text > 4096 or string.find(text, '[^%w_.,+%- ]') then return invalid(field, text, 'name value name value') end
  for word in string.gmatch(text, '%S+') do table.insert(words, word) end
  if #words % 2 ~= 0 then return invalid(field, text, 'name value name value') end
  return words
end

-- The known values of one GPU, checked.
function read_report(at, host_labels)
  local r = { uuid = name('gpu', ARGV[at]), index = ARGV[at + 1], name = ARGV[at + 2], state = ARGV[at + 3],
    job_state = ARGV[at + 4], reason = ARGV[at + 5], capability = ARGV[at + 14], mig = ARGV[at + 15],
    processes = ARGV[at + 16], marks = ARGV[at + 17], xids = {}, warning = ARGV[at + 20], listed = ARGV[at + 21], all = {}, known = {} }
  whole('index', r.index, 0, 65535)
  if not SPEEDS[r.state] then invalid('state', r.state, 'OPTIMAL, NORMAL, THROTTLED, CRITICAL or UNAVAILABLE') end
  if not SPEEDS[r.job_state] then invalid('job_state', r.job_state, 'one of the five states') end
  for i, field in ipairs({ 'memory_total_bytes', 'memory_used_bytes', 'memory_reserved_bytes', 'unmanaged_bytes',
    'temperature_c', 'utilization_percent', 'power_mw', 'process_count' }) do
    local value = ARGV[at + 5 + i]
    if value ~= '' then
      r[field] = whole(field, value, 0, 9007199254740991)
      table.insert(r.known, field)
      table.insert(r.known, value)
    end
    table.insert(r.all, field)
    table.insert(r.all, value)
  end
  if r.capability ~= '' and not string.match(r.capability, '^%d%d?%.%d%d?$') then
    invalid('capability', r.capability, 'a version such as 8.6')
  end
  if r.mig ~= '' and (not string.match(r.mig, '^%w[%w.+]*$') or #r.mig > 32) then invalid('mig', r.mig, 'a profile such as 1g.5gb') end
  if #r.processes > 4096 or string.find(r.processes, '[^%d: ]') then invalid('processes', r.processes, 'pid:bytes pid:bytes') end
  if not MARKED[r.marks] then invalid('marks', r.marks, 'health, people, both or none') end
  r.hardware = pairs_of('hardware', ARGV[at + 18])
  if #ARGV[at + 19] > 256 or string.find(ARGV[at + 19], '[^%d ]') then invalid('xids', ARGV[at + 19], 'numbers') end
  for xid in string.gmatch(ARGV[at + 19], '%d+') do table.insert(r.xids, xid) end
  if r.warning ~= '' and not string.match(r.warning, '^[%l_]+ %d+ %d+$') then
    invalid('warning', r.warning, 'a threshold, seconds until it, and thousandths of a degree a minute')
  end
  if lends(r.state) and not (r.memory_total_bytes and r.unmanaged_bytes) then
    invalid('state', r.state, 'UNAVAILABLE while total or unmanaged memory is unknown') -- nothing fails open
  end
  if #r.listed > 16384 then invalid('listed', string.sub(r.listed, 1, 40), 'at most 16384 bytes') end
  r.labels = host_labels
  r.class = (r.capability .. r.mig .. host_labels) ~= '' and r.capability .. '|' .. r.mig .. '|' .. host_labels or ''
  return r
end

function read_verdict(at)
  local v = { id = name('lease_id', ARGV[at]), token = ARGV[at + 1], verdict = ARGV[at + 2], used = ARGV[at + 3],
    over = ARGV[at + 4], idle = ARGV[at + 5] }
  whole('token', v.token, 1, 9007199254740991)
  if v.verdict ~= '' and v.verdict ~= 'alive' and v.verdict ~= 'gone' then invalid('verdict', v.verdict, 'alive, gone or nothing') end
  for field, value in pairs({ used_bytes = v.used, over_bytes = v.over, idle_seconds = v.idle }) do
    if value ~= '' then whole(field, value, 0, 9007199254740991) end
  end
  return v
end

-- What else a host says of itself: names and values, and the names that it does not say.
local VITALS = { 'cpu_percent', 'load_milli', 'memory_used_bytes', 'memory_available_bytes', 'swap_used_bytes',
  'disk_free_bytes', 'disk_total_bytes' }
function read_vitals(text)
  local said, unsaid, given = pairs_of('vitals', text) or {}, {}, {}
  for i = 1, #said, 2 do
    given[said[i]] = true
    whole(said[i], said[i + 1], 0, 9007199254740991)
  end
  for _, one in ipairs(VITALS) do
    if not given[one] then table.insert(unsaid, one) end
    given[one] = nil
  end
  if next(given) then invalid('vitals', text, table.concat(VITALS, ', ')) end
  return said, unsaid
end

-- Bytes of a setting in MiB; what somebody wrote by hand and is no number lends nothing.
local function mebibytes(text, otherwise)
  return #text <= 9 and string.match(text, '^%d+$') and tonumber(text) * MIB or otherwise
end

-- What the configuration says of the memory of each card, and of all: read once for all of them.
local caps = {}
function read_caps(reports)
  local names = { 'memory_limit_mb', 'memory_reserve_mb' }
  for i, report in ipairs(reports) do
    report.at = i
    table.insert(names, 'memory_limit_mb@' .. report.uuid)
    table.insert(names, 'memory_reserve_mb@' .. report.uuid)
  end
  caps = call('HMGET', ROOT .. 'config', unpack(names))
end

-- budget = min(total, limit) - reserve - unmanaged; the last known one while the card cannot be read.
local function budget_of(report, card)
  if not (report.memory_total_bytes and report.unmanaged_bytes) then
    return card and card.capacity or 0, card and card.budget or 0
  end
  local own = { caps[2 * report.at + 1], caps[2 * report.at + 2], caps[1], caps[2] }
  local limit, reserve, capacity = own[1] or own[3], own[2] or own[4] or '512', report.memory_total_bytes
  if limit then capacity = math.min(capacity, mebibytes(limit, 0)) end
  capacity = math.max(0, capacity - mebibytes(reserve, capacity))
  return capacity, math.max(0, capacity - report.unmanaged_bytes)
end

-- Cards of one class are found through an index of their own; a pool has at most 64 classes, cards of further ones are
-- found without their class only.
local function join_class(report, card)
  if card and card.class == report.class then return end
  if card then leave_class(report.uuid, card.class) end
  if report.class == '' then return end
  if call('HLEN', CLASSES) >= 64 and call('HEXISTS', CLASSES, report.class) == 0 then
    report.class = ''
  else
    call('HINCRBY', CLASSES, report.class, 1)
  end
end

-- A card that is kept for a waiter whom it can never hold now is kept no longer.
local function keep_or_not(card, was_host)
  if card.reserved == '' then return end
  local need, waiter = tonumber(call('HGET', GPU_OF .. card.uuid, 'reserved_bytes') or 0), read_waiter(card.reserved)
  if not lends(card.state) or card.drained or card.budget < need or card.host ~= was_host
      or not (waiter and suits(waiter, card.class)) then
    unreserve(card.reserved, 'its card has not got so much any more')
    card.reserved = ''
  end
end

-- What befell the card beside its state: driver's errors, heat to come, and who closed it or opened it again.
local function tell_more(sample, report, before, by, warned)
  local uuid, host = report.uuid, sample.host
  for _, mark in ipairs({ 'health', 'people' }) do
    local was, is = with_mark(before, mark, true) == before, with_mark(by, mark, true) == by
    if was ~= is then
      journal(is and 'drained' or 'undrained', 'gpu', uuid, 'host', host, 'by', mark, 'reason', is and report.reason or '')
    end
  end
  for _, xid in ipairs(report.xids) do journal('xid', 'gpu', uuid, 'host', host, 'xid', xid) end
  local threshold, seconds, slope = string.match(report.warning, '^(%S+) (%d+) (%d+)$')
  if (threshold or '') ~= (warned or '') then
    call('HSET', GPU_OF .. uuid, 'warned', threshold or '')
    if threshold then
      journal('warning', 'gpu', uuid, 'host', host, 'threshold', threshold, 'seconds', seconds,
        'slope_c_per_minute', format('%.1f', tonumber(slope) / 1000), 'temperature_c', report.temperature_c and int(report.temperature_c) or '')
    end
  end
end

local function tell_state(sample, report, known, job_state, short, short_before)
  if known ~= report.state or job_state ~= report.job_state then
    journal('state', 'gpu', report.uuid, 'host', sample.host, 'from', known or '', 'to', report.state,
      'job_state', report.job_state, 'temperature_c', report.temperature_c and int(report.temperature_c) or '',
      'reason', report.reason)
  end
  if short.bytes > 0 and short_before == 0 then -- law 1: says so
    journal('short', 'gpu', report.uuid, 'host', sample.host, 'leased_bytes', int(short.leased),
      'budget_bytes', int(short.budget), 'unmanaged_bytes', int(report.unmanaged_bytes or 0))
  end
end

-- A host with fewer cards than before has no room on so many.
local function narrow(host, count)
  local gone = {}
  for k = math.max(2, count + 1), WIDEST do table.insert(gone, host .. '#' .. k) end
  if #gone > 0 then call('ZREM', WIDE, unpack(gone)) end
end

-- A card that moved house is its old host's no more.
local function leave_host(uuid, host)
  local left = {}
  for _, other in ipairs(host_gpus(host)) do
    if other ~= uuid then table.insert(left, other) end
  end
  if call('EXISTS', HOST_OF .. host) == 1 then call('HSET', HOST_OF .. host, 'gpus', table.concat(left, ' ')) end
  narrow(host, #left)
  widened[host] = true
end

-- Takes one card's report. False if another host publishes the card.
function publish(sample, report)
  local uuid, host = report.uuid, sample.host
  local known = read_card(uuid)
  if known and known.host ~= host and known.state ~= 'UNAVAILABLE' and known.fresh_until >= now then
    return false -- else the card moved house
  end
  local marks = call('HMGET', GPU_OF .. uuid, 'drained_by', 'short_bytes', 'free_bytes', 'warned')
  local by = marks[1] or ''
  if known and known.host ~= host then by = with_mark(by, 'host', false) end -- the mark of its old host
  if sample.drained then by = with_mark(by, 'host', true) end
  for _, mark in ipairs({ 'health', 'people' }) do
    by = with_mark(by, mark, string.find(report.marks, mark, 1, true) ~= nil)
  end
  local was_drained = known and known.drained
  local capacity, budget = budget_of(report, known)
  local was_class = known and known.class
  join_class(report, known)
  local card = known or { uuid = uuid, leased = 0, reserved = '' }
  local was, was_job, was_host = card.state, card.job_state, card.host
  if was_host and was_host ~= host then
    leave_host(uuid, was_host)
  elseif known and card.peers > sample.count then
    narrow(host, sample.count)
  end
  card.host, card.class, card.state, card.drained, card.peers = host, report.class, report.state, by ~= '', sample.count
  card.capacity, card.budget = capacity, budget
  card.fresh_until = sample.fresh_until
  local free, short = math.max(0, budget - card.leased), math.max(0, card.leased - budget)
  call('SADD', GPUS, uuid) -- this and the next index also heal here, should a server have evicted them
  -- What a grant reads comes first: a small hash is a list, in which the server looks for each field from the start.
  call('HSET', GPU_OF .. uuid, 'host', host, 'state', report.state, 'drained', card.drained and '1' or '0',
    'fresh_until', int(sample.fresh_until), 'leased_bytes', int(card.leased), 'budget_bytes', int(budget),
    'class', report.class, 'peers', int(sample.count), 'capacity_bytes', int(capacity), 'job_state', report.job_state,
    'left', '0', 'sampled_at', int(sample.at), 'free_bytes', int(free), 'short_bytes', int(short), 'uuid', uuid,
    'index', report.index, 'name', report.name, 'speed', SPEEDS[report.state], 'job_speed', SPEEDS[report.job_state],
    'reason', report.reason, 'drained_by', by, 'capability', report.capability, 'mig', report.mig,
    'labels', report.labels, 'processes', report.processes, unpack(report.all))
  call('DEL', HARDWARE_OF .. uuid) -- what a card offers no more is not there
  if report.listed ~= '' then
    table.insert(report.hardware, 'processes')
    table.insert(report.hardware, report.listed)
  end
  if #report.hardware > 0 then call('HSET', HARDWARE_OF .. uuid, unpack(report.hardware)) end
  call('ZADD', FRESH, due(sample.fresh_until), uuid)
  call('ZADD', CAPACITY, capacity, uuid)
  keep_or_not(card, was_host)
  offer(card)
  if lends(card.state) and not card.drained and (free > tonumber(marks[3] or 0) or not lends(was) or was_drained or settling
      or card.class ~= was_class or was_host ~= host) then
    grown[uuid] = host
  end
  call('XADD', METRICS_OF .. host, 'MAXLEN', '~', int(sample.history * math.max(1, sample.count)), '*', 'uuid', uuid,
    'host', host, 'at', int(sample.at), 'state', report.state, unpack(report.known))
  tell_state(sample, report, was, was_job, { bytes = short, leased = card.leased, budget = budget }, tonumber(marks[2] or 0))
  tell_more(sample, report, marks[1] or '', by, marks[4])
  return true
end

-- A lease of whose cards its process takes more than it borrowed, or makes no use: said once, when it begins.
local function tell_use(lease, v)
  local was = call('HMGET', LEASE_OF .. v.id, 'over_bytes', 'idle_seconds')
  if v.over ~= '' and v.over ~= was[1] then
    call('HSET', LEASE_OF .. v.id, 'over_bytes', v.over)
    if v.over ~= '0' and (was[1] or '0') == '0' then
      journal('overuse', 'id', v.id, 'token', v.token, 'gpu_uuids', lease.gpus, 'memory_bytes', int(lease.bytes),
        'over_bytes', v.over, 'used_bytes', v.used)
    end
  end
  if v.idle ~= '' and v.idle ~= was[2] then
    call('HSET', LEASE_OF .. v.id, 'idle_seconds', v.idle)
    if v.idle ~= '0' and (was[2] or '0') == '0' then
      journal('idle', 'id', v.id, 'token', v.token, 'gpu_uuids', lease.gpus, 'memory_bytes', int(lease.bytes),
        'idle_seconds', v.idle)
    end
  end
end

-- law 9, second half: what an agent saw of a lease's process. It names the token, so that a confirmation that is late
-- ends no newer lease of the same name.
function take_verdict(sample, v)
  local lease = read_lease(v.id)
  if not lease or lease.token ~= v.token or lease.host ~= sample.host then return end
  if v.used ~= '' then
    local peak = math.max(tonumber(v.used), tonumber(lease.peak) or 0)
    call('HSET', LEASE_OF .. v.id, 'used_bytes', v.used, 'peak_bytes', int(peak))
    lease.peak = int(peak)
  end
  if v.over ~= '' or v.idle ~= '' then tell_use(lease, v) end
  if v.verdict == 'alive' then
    call('HSET', LEASE_OF .. v.id, 'seen_until', int(sample.fresh_until))
    -- An adopted lease is renewed by its agent's eyes, also one that was given up while these were closed.
    local renewed = lease.state == 'active' or lease.state == 'reclaiming' and lease.revoke_at == 0
    if renewed and call('HGET', LEASE_OF .. v.id, 'adopted') then
      local expires = now + lease.ttl_ms
      if lease.revoke_at > 0 then expires = math.min(expires, math.max(lease.revoke_at, now + 1)) end
      call('HSET', LEASE_OF .. v.id, 'expires_at', int(expires), 'state', 'active')
      call('ZADD', LEASES, due(expires), v.id)
      if lease.state == 'reclaiming' then
        journal('revived', 'id', v.id, 'token', lease.token, 'gpu_uuids', lease.gpus, 'memory_bytes', int(lease.bytes))
      end
    end
  elseif v.verdict == 'gone' and lease.state == 'reclaiming' then
    end_lease(lease, lease.revoke_at > 0 and lease.revoke_at <= now and 'revoked' or 'expired', 'reclaimed', 'why', 'seen')
  end
end
