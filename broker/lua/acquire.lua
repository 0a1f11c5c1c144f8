#!lua
-- Lends memory of one GPU, or queues the request, or says why not. Asked again under the same name it returns the same
-- lease (law 4); asked again by a waiter it is the waiter's heartbeat, and its claim once it was granted.
--
-- KEYS   the pool's keys, in the order of broker/ledger/keys.py
-- ARGV   1 id  2 memory_bytes  3 ttl_ms  4 host or ''  5 gpu uuid or ''  6 priority -1000..1000  7 tenant
--        8 owner  9 job_id or ''  10 pid or ''  11 token or '' (continue that lease only)  12 wait: 1 queue, 0 do not
-- reply  granted token gpu_uuids host expires_at_ms waited_ms ttl_ms left_ms
--        waiting place                 (place in the queue, 1 is next)
--        refused largest_free_bytes largest_capacity_bytes gpus_with_room   (of those the request may use)
--        impossible largest_capacity_bytes
--        full waiters                  (the queue's cap is reached)
-- errors BROKER_INVALID  BROKER_LEASE_CONFLICT  BROKER_LEASE_LOST  BROKER_STALE_TOKEN  BROKER_LEASE_NOT_FOUND
-- cost   O(log n) in GPUs, leases and waiters, plus what it changes
-- include: keys check ledger gpu reap grant

local ask = {
  id = name('lease_id', ARGV[1]),
  bytes = whole('memory', ARGV[2], 1, 4398046511104),
  ttl_ms = whole('ttl_ms', ARGV[3], 100, 86400000),
  host = name('host', ARGV[4], true),
  gpu = name('gpu', ARGV[5], true),
  priority = ARGV[6],
  tenant = name('tenant', ARGV[7]),
  owner = name('owner', ARGV[8]),
  job_id = name('job_id', ARGV[9], true),
  pid = ARGV[10],
}
if not (string.match(ARGV[6], '^-?%d+$') and #ARGV[6] <= 5 and math.abs(tonumber(ARGV[6])) <= 1000) then
  invalid('priority', ARGV[6], 'a whole number from -1000 to 1000')
end
if ask.pid ~= '' then whole('pid', ask.pid, 1, 4194304) end
if ARGV[11] ~= '' then whole('token', ARGV[11], 1, 9007199254740991) end
if ARGV[12] ~= '0' and ARGV[12] ~= '1' then invalid('wait', ARGV[12], '0 or 1') end
if refusal then return refusal end
ask.request = table.concat({ ARGV[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7] }, '|')
local may_wait = ARGV[12] == '1'

local function conflict(asked)
  return redis.error_reply('BROKER_LEASE_CONFLICT lease=' .. ask.id .. ' asked=' .. asked .. ' now=' .. ask.request)
end

-- The name's own lease, if there is one. Every error leaves before the first write (law 2).
local function existing()
  local lease = call('HMGET', LEASE_OF .. ask.id, 'request', 'token', 'state', 'expires_at', 'gpu_uuids', 'host',
    'waited_ms', 'ttl_ms')
  if not lease[1] then
    return nil, ARGV[11] ~= '' and redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. ask.id) or nil
  end
  if ARGV[11] ~= '' and ARGV[11] ~= lease[2] then
    return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. ask.id .. ' have=' .. lease[2] .. ' got=' .. ARGV[11])
  end
  if lease[1] ~= ask.request then return nil, conflict(lease[1]) end
  local over = lease[3] == 'active' and tonumber(lease[4]) <= now and now >= grace_until
  if lease[3] == 'reclaiming' or over then
    return nil, redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=expired')
  end
  return lease
end

-- The waiter was granted this lease and is here to take it: from now on its own TTL runs.
local function claim(lease)
  lease[4], lease[8] = int(now + ask.ttl_ms), int(ask.ttl_ms)
  call('HSET', LEASE_OF .. ask.id, 'state', 'active', 'expires_at', lease[4], 'ttl_ms', int(ask.ttl_ms))
  call('ZADD', LEASES, due(now + ask.ttl_ms), ask.id)
  call('DEL', WAKE_OF .. ask.id)
  journal('claimed', 'id', ask.id, 'token', lease[2])
  save()
end

local function answer(lease)
  return { 'granted', lease[2], lease[5], lease[6], lease[4], lease[7], lease[8], int(tonumber(lease[4]) - now) }
end

local lease, refused = existing()
if refused then return refused end
if lease then
  if lease[3] == 'granted' then claim(lease) end
  return answer(lease)
end

local queued = call('ZCARD', WAITERS)
local waiter = queued > 0 and read_waiter(ask.id) or nil
if waiter and waiter.request ~= ask.request then return conflict(waiter.request) end

-- A waiter that is silent for longer than this is dropped.
local function show_life()
  local deadline = due(now + setting_ms('waiter_seconds', 15))
  call('ZADD', WAITING, deadline, ask.id)
  call('HSET', WAITER_OF .. ask.id, 'deadline', int(deadline))
end

-- From here on there are no errors, only answers.
if waiter then show_life() end
reap()
if queued > 0 then serve() end
lease = waiter and existing()
if lease then -- served just now, by this very script
  claim(lease)
  return answer(lease)
end

local gpu = place(ask, queued > 0 and waiters_before(ask) or {})
if gpu then
  local waited = 0
  if waiter then
    waited = now - waiter.since
    remove_waiter(ask.id)
  end
  local granted, expires = grant(ask, gpu, 'active', ask.ttl_ms, waited)
  save()
  return { 'granted', granted, gpu.uuid, gpu.host, expires, int(waited), ARGV[3], ARGV[3] }
end

-- Of the GPUs that the request may use: the largest budget that any could have (0 while none is known), the most free
-- bytes on one that is open, and how many are open.
local function what_there_is()
  local uuids = ask.gpu ~= '' and { ask.gpu } or host_gpus(ask.host)
  if ask.gpu == '' and ask.host == '' then
    return tonumber(call('ZREVRANGE', CAPACITY, 0, 0, 'WITHSCORES')[2] or 0),
      tonumber(call('ZREVRANGE', FREE, 0, 0, 'WITHSCORES')[2] or 0), call('ZCARD', FREE)
  end
  local capacity, free, open = 0, 0, 0
  for _, uuid in ipairs(uuids) do -- at most 64
    local offered = call('ZSCORE', FREE, uuid)
    capacity = math.max(capacity, tonumber(call('ZSCORE', CAPACITY, uuid) or 0))
    free = math.max(free, tonumber(offered or 0))
    open = open + (offered and 1 or 0)
  end
  return capacity, free, open
end

local capacity, free, open = what_there_is()
local known_host = ask.gpu ~= '' and ask.host ~= '' and call('HGET', GPU_OF .. ask.gpu, 'host')
local elsewhere = known_host and known_host ~= ask.host
-- One who waits for any host is not sent away: the machine with the large card may be starting anew.
if elsewhere or (capacity > 0 and ask.bytes > capacity and not (waiter and ask.host == '')) then
  if waiter then
    remove_waiter(ask.id)
    journal('cancelled', 'id', ask.id, 'reason', 'larger than any GPU')
    grew = true -- those behind it may go
    serve()
  end
  save()
  return { 'impossible', int(capacity) }
end

if may_wait then
  local waiters_max = not waiter and setting('waiters_max', 10000)
  if waiters_max and call('ZCARD', WAITERS) >= waiters_max then
    save()
    return { 'full', int(waiters_max) }
  elseif not waiter then
    arrivals = arrivals + 1
    -- Higher priority first, then arrival: 2^42 arrivals fit below one step of priority.
    call('ZADD', WAITERS, -tonumber(ask.priority) * 4398046511104 + arrivals, ask.id)
    call('HSET', WAITER_OF .. ask.id, 'id', ask.id, 'memory_bytes', ARGV[2], 'ttl_ms', ARGV[3], 'host', ask.host,
      'gpu', ask.gpu, 'priority', ask.priority, 'tenant', ask.tenant, 'owner', ask.owner, 'job_id', ask.job_id,
      'pid', ask.pid, 'request', ask.request, 'since', int(now), 'bypassed', '0')
    show_life()
    journal('queued', 'id', ask.id, 'memory_bytes', ARGV[2], 'host', ask.host, 'gpu', ask.gpu, 'priority', ask.priority,
      'tenant', ask.tenant, 'owner', ask.owner, 'job_id', ask.job_id)
  end
  save()
  return { 'waiting', int(call('ZRANK', WAITERS, ask.id) + 1) }
end

if waiter then
  remove_waiter(ask.id)
  journal('cancelled', 'id', ask.id, 'reason', 'waited long enough')
  grew = true -- those behind it may go
  serve()
end
save()
return { 'refused', int(free), int(capacity), int(open) }
