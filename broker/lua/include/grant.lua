-- Placement, the grant itself, and serving of waiters.
-- needs: keys, ledger, gpu

-- The UUIDs of a host, at most 64.
local function host_gpus(host)
  local uuids = {}
  for uuid in string.gmatch(call('HGET', HOST_OF .. host, 'gpus') or '', '%S+') do table.insert(uuids, uuid) end
  return uuids
end

-- The GPU with the least free bytes that are enough, of a host or of the pool, leaving out the first `skipped` of them.
local function best_fit(bytes, host, skipped)
  if host == '' then return call('ZRANGEBYSCORE', FREE, bytes, '+inf', 'LIMIT', skipped, 1)[1] end
  local uuids, fits = host_gpus(host), {}
  if #uuids == 0 then return nil end
  for i, free in ipairs(call('ZMSCORE', FREE, unpack(uuids))) do
    free = tonumber(free or 0)
    if free >= bytes then table.insert(fits, { free = free, uuid = uuids[i] }) end
  end
  table.sort(fits, function(x, y) return x.free < y.free or (x.free == y.free and x.uuid < y.uuid) end)
  return fits[skipped + 1] and fits[skipped + 1].uuid
end

-- The GPU if a grant on it is lawful now; else nil, and whether it stands wrongly in the index.
local function open_gpu(uuid, bytes, host)
  local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'drained', 'fresh_until', 'leased_bytes', 'budget_bytes',
    'sampled_at')
  if not gpu[1] then
    forget_gpu(uuid)
    return nil
  end
  local leased, budget, fresh = tonumber(gpu[5]), tonumber(gpu[6]), tonumber(gpu[4]) >= now
  if fresh and lends[gpu[2]] and gpu[3] ~= '1' and bytes >= 1 and leased + bytes <= budget then
    if host ~= '' and host ~= gpu[1] then return nil end
    return { uuid = uuid, host = gpu[1], leased = leased, budget = budget }
  end
  if not fresh then
    close_gpu(uuid, gpu[1], gpu[2], 'no sample since ' .. gpu[7])
  else
    index_gpu(uuid, lends[gpu[2]] and gpu[3] ~= '1', math.max(0, budget - leased))
  end
  return nil
end

-- law 7: whether a request may take bytes of this GPU ahead of those before it. Each of them who could use the GPU is
-- passed at most bypass_max times; then its card's free bytes gather for it. Returns those whom it passes, or nil.
local function passes(before, gpu)
  local passed, bypass_max = {}, #before > 0 and setting('bypass_max', 64)
  for _, other in ipairs(before) do
    if (other.gpu == '' or other.gpu == gpu.uuid) and (other.host == '' or other.host == gpu.host)
        and other.bytes <= gpu.budget then
      if other.bypassed >= bypass_max then return nil end
      table.insert(passed, other)
    end
  end
  return passed
end

-- Best fit among the cards that those before this request leave to it. A card found closed on the way leaves the index,
-- one that is kept for others is skipped: at most 64 turns (law 13).
local function place(ask, before)
  local skipped = 0
  for _ = 1, 64 do
    local uuid = ask.gpu ~= '' and ask.gpu or best_fit(ask.bytes, ask.host, skipped)
    if not uuid or (ask.gpu ~= '' and call('EXISTS', GPU_OF .. uuid) == 0) then return nil end
    local gpu = open_gpu(uuid, ask.bytes, ask.host)
    local passed = gpu and passes(before, gpu)
    if passed then
      for _, other in ipairs(passed) do
        other.bypassed = other.bypassed + 1
        call('HSET', WAITER_OF .. other.id, 'bypassed', int(other.bypassed))
      end
      return gpu
    end
    if ask.gpu ~= '' then return nil end
    if gpu then skipped = skipped + 1 end
  end
  return nil
end

-- Writes the lease. `ask` is the request as acquire read it; `standing` is 'active' for a caller who is here and
-- 'granted' for a waiter who has yet to claim it. Returns token and expiry as text.
local function grant(ask, gpu, standing, ttl_ms, waited_ms)
  token = token + 1
  local leased, expires = gpu.leased + ask.bytes, now + ttl_ms
  local bytes, text, at = int(ask.bytes), int(token), int(now)
  call('HSET', LEASE_OF .. ask.id, 'id', ask.id, 'gpu_uuids', gpu.uuid, 'host', gpu.host, 'memory_bytes', bytes,
    'token', text, 'owner', ask.owner, 'tenant', ask.tenant, 'priority', ask.priority, 'state', standing,
    'created_at', at, 'expires_at', int(expires), 'ttl_ms', int(ask.ttl_ms), 'waited_ms', int(waited_ms),
    'job_id', ask.job_id, 'pid', ask.pid, 'used_bytes', '', 'peak_bytes', '', 'request', ask.request)
  call('ZADD', LEASES, due(expires), ask.id)
  call('HSET', GPU_OF .. gpu.uuid, 'leased_bytes', int(leased), 'free_bytes', int(gpu.budget - leased),
    'lease:' .. ask.id, bytes)
  index_gpu(gpu.uuid, true, gpu.budget - leased)
  journal('granted', 'id', ask.id, 'token', text, 'gpu_uuids', gpu.uuid, 'host', gpu.host,
    'memory_bytes', bytes, 'leased_bytes', int(leased), 'budget_bytes', int(gpu.budget),
    'waited_ms', int(waited_ms), 'tenant', ask.tenant, 'job_id', ask.job_id)
  return text, int(expires)
end

local function remove_waiter(id)
  call('ZREM', WAITERS, id)
  call('ZREM', WAITING, id)
  call('DEL', WAITER_OF .. id)
end

-- A queued request, or nil.
local function read_waiter(id)
  local w = call('HMGET', WAITER_OF .. id, 'memory_bytes', 'ttl_ms', 'host', 'gpu', 'priority', 'tenant', 'owner',
    'job_id', 'pid', 'request', 'since', 'bypassed')
  if not w[1] then return nil end
  return { id = id, bytes = tonumber(w[1]), ttl_ms = tonumber(w[2]), host = w[3], gpu = w[4], priority = w[5],
    tenant = w[6], owner = w[7], job_id = w[8], pid = w[9], request = w[10], since = tonumber(w[11]),
    bypassed = tonumber(w[12]) }
end

-- The first 32 of those in the queue who come before a request.
local function waiters_before(ask)
  local before = {}
  for _, id in ipairs(call('ZRANGE', WAITERS, 0, 31)) do
    local other = id ~= ask.id and read_waiter(id)
    if not other or tonumber(other.priority) < tonumber(ask.priority) then break end
    table.insert(before, other)
  end
  return before
end

-- Hands grown capacity to waiters, first come first served among those it can serve. Looks at the first 32 and grants
-- at most 16 (law 13); if that was not enough the next script goes on, and who stands further back also asks by itself
-- at its next beat.
local function serve()
  if not grew then return end
  grew = false
  if call('ZCARD', WAITERS) == 0 then return end
  local claim_ms = setting_ms('claim_seconds', 10)
  local granted, before, too_big = 0, {}, {}
  for _, id in ipairs(call('ZRANGE', WAITERS, 0, 31)) do
    local ask = read_waiter(id)
    if not ask then
      remove_waiter(id)
    else
      local selector = ask.host .. ' ' .. ask.gpu
      local gpu = ask.bytes < (too_big[selector] or math.huge) and place(ask, before)
      if gpu then
        grant(ask, gpu, 'granted', claim_ms, now - ask.since)
        remove_waiter(id)
        -- The push is a hint: the grant stands in the ledger, and its waiter finds it at its next beat too.
        call('RPUSH', WAKE_OF .. id, int(token))
        call('PEXPIRE', WAKE_OF .. id, claim_ms)
        granted = granted + 1
        if granted == 16 then
          grew = true
          return
        end
      else
        too_big[selector] = math.min(too_big[selector] or math.huge, ask.bytes)
        table.insert(before, ask)
      end
    end
  end
end
