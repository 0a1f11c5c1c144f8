#!lua
-- One host's sample in one step: a stream entry and the hash of each GPU, an event for each state that changed, the
-- budget that follows, and waiters served if that grew.
--
-- KEYS   the pool's keys
-- ARGV   1 host  2 interval_ms (a sample is fresh for three)  3 state of the host, OK or UNAVAILABLE  4 its reason
--        5 source  6 number of GPUs, at most 64; then for each GPU 14 values:
--        uuid index name state job_state reason memory_total_bytes memory_used_bytes memory_reserved_bytes
--        unmanaged_bytes temperature_c utilization_percent power_mw process_count; '' is unknown
-- reply  the ledger's time in ms, then the UUIDs that were not taken since another host publishes them
-- errors BROKER_INVALID
-- cost   O(log n) for each GPU, plus the waiters served
-- include: keys check ledger gpu reap grant

local SPEEDS = { OPTIMAL = '1.0', NORMAL = '0.8', THROTTLED = '0.5', CRITICAL = '0.0', UNAVAILABLE = '0.0' }
local MIB = 1048576
local FIELDS = 14
local host = name('host', ARGV[1])
local interval_ms = whole('interval_ms', ARGV[2], 1, 3600000)
local count = whole('gpus', ARGV[6], 0, 64)
if ARGV[3] ~= 'OK' and ARGV[3] ~= 'UNAVAILABLE' then invalid('host_state', ARGV[3], 'OK or UNAVAILABLE') end
if #ARGV ~= 6 + count * FIELDS then invalid('arguments', tostring(#ARGV), '6 and 14 for each GPU') end

-- The known values of one GPU, checked.
local function read_report(at)
  local r = { uuid = name('gpu', ARGV[at]), index = ARGV[at + 1], name = ARGV[at + 2], state = ARGV[at + 3],
    job_state = ARGV[at + 4], reason = ARGV[at + 5], all = {}, known = {} }
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
  if lends[r.state] and not (r.memory_total_bytes and r.unmanaged_bytes) then
    invalid('state', r.state, 'UNAVAILABLE while total or unmanaged memory is unknown') -- nothing fails open
  end
  return r
end

local reports = {}
if not refusal then
  for i = 1, count do reports[i] = read_report(7 + (i - 1) * FIELDS) end
end
if refusal then return refusal end

local history = setting('history_size', 200)
local fresh_until = now + 3 * interval_ms

-- Bytes of a setting in MiB; what somebody wrote by hand and is no number lends nothing.
local function mebibytes(text, otherwise)
  return #text <= 9 and string.match(text, '^%d+$') and tonumber(text) * MIB or otherwise
end

-- budget = min(total, limit) - reserve - unmanaged; the last known one while the card cannot be read.
local function budget_of(report, known_capacity, known_budget)
  if not (report.memory_total_bytes and report.unmanaged_bytes) then
    return tonumber(known_capacity or 0), tonumber(known_budget or 0)
  end
  local own = call('HMGET', CONFIG, 'memory_limit_mb@' .. report.uuid, 'memory_reserve_mb@' .. report.uuid,
    'memory_limit_mb', 'memory_reserve_mb')
  local limit, reserve, capacity = own[1] or own[3], own[2] or own[4] or '512', report.memory_total_bytes
  if limit then capacity = math.min(capacity, mebibytes(limit, 0)) end
  capacity = math.max(0, capacity - mebibytes(reserve, capacity))
  return capacity, math.max(0, capacity - report.unmanaged_bytes)
end

local function publish(report)
  local uuid = report.uuid
  local known = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'drained', 'leased_bytes', 'budget_bytes',
    'capacity_bytes', 'short_bytes', 'fresh_until', 'free_bytes', 'job_state')
  if known[1] and known[1] ~= host then
    if known[2] ~= 'UNAVAILABLE' and tonumber(known[8]) >= now then return false end -- else the card moved house
  end
  local leased, drained = tonumber(known[4] or 0), known[3] or '0'
  local capacity, budget = budget_of(report, known[6], known[5])
  local free, short = math.max(0, budget - leased), math.max(0, leased - budget)
  local opened = lends[report.state] and drained ~= '1'
  call('SADD', GPUS, uuid)
  call('HSET', GPU_OF .. uuid, 'uuid', uuid, 'host', host, 'index', report.index, 'name', report.name,
    'state', report.state, 'speed', SPEEDS[report.state], 'job_state', report.job_state,
    'job_speed', SPEEDS[report.job_state], 'reason', report.reason, 'budget_bytes', int(budget),
    'capacity_bytes', int(capacity), 'leased_bytes', int(leased), 'free_bytes', int(free), 'short_bytes', int(short),
    'sampled_at', int(now), 'fresh_until', int(fresh_until), 'drained', drained, 'left', '0', unpack(report.all))
  call('ZADD', FRESH, due(fresh_until), uuid)
  call('ZADD', CAPACITY, capacity, uuid)
  index_gpu(uuid, opened, free)
  if opened and (free > tonumber(known[9] or 0) or not lends[known[2]]) then grew = true end
  call('XADD', METRICS_OF .. host, 'MAXLEN', '~', int(history * math.max(1, count)), '*', 'uuid', uuid,
    'host', host, 'at', int(now), 'state', report.state, unpack(report.known))
  if known[2] ~= report.state or known[10] ~= report.job_state then
    journal('state', 'gpu', uuid, 'host', host, 'from', known[2] or '', 'to', report.state,
      'job_state', report.job_state, 'temperature_c', report.temperature_c and int(report.temperature_c) or '',
      'reason', report.reason)
  end
  if short > 0 and tonumber(known[7] or 0) == 0 then -- law 1: says so
    journal('short', 'gpu', uuid, 'host', host, 'leased_bytes', int(leased), 'budget_bytes', int(budget),
      'unmanaged_bytes', int(report.unmanaged_bytes or 0))
  end
  return true
end

local answer, taken = { int(now) }, {}
for _, report in ipairs(reports) do
  if publish(report) then table.insert(taken, report.uuid) else table.insert(answer, report.uuid) end
end
-- law 8: a card of this host that is not in its sample has no fresh word.
local named = ' ' .. table.concat(taken, ' ') .. ' '
for uuid in string.gmatch(call('HGET', HOST_OF .. host, 'gpus') or '', '%S+') do
  if not string.find(named, ' ' .. uuid .. ' ', 1, true) then
    local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'state')
    if gpu[1] == host then
      close_gpu(uuid, host, gpu[2], 'not in the sample of its host')
      table.insert(taken, uuid) -- it stays the host's, so that leaving forgets it
    end
  end
end
if call('SADD', HOSTS, host) == 1 then
  call('PERSIST', METRICS_OF .. host)
  journal('joined', 'host', host, 'source', ARGV[5])
end
call('HSET', HOST_OF .. host, 'host', host, 'state', ARGV[3], 'reason', ARGV[4], 'source', ARGV[5],
  'gpus', table.concat(taken, ' '), 'sampled_at', int(now), 'fresh_until', int(fresh_until))
reap()
serve()
save()
return answer
