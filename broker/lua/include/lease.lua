-- The lease, read and ended.
-- needs: keys ledger gpu tenant share host cards queue
-- gives: read_lease end_lease

-- What the end of a lease needs of it, or nil.
function read_lease(id)
  local f = call('HMGET', LEASE_OF .. id, 'token', 'state', 'expires_at', 'ttl_ms', 'gpu_uuids', 'memory_bytes',
    'created_at', 'tenant', 'function', 'waited_ms', 'peak_bytes', 'host', 'host_memory_bytes', 'cpus_milli', 'nonce',
    'revoke_at', 'seen_until')
  if not f[1] then return nil end
  return { id = id, token = f[1], state = f[2], expires_at = tonumber(f[3]), ttl_ms = tonumber(f[4]), gpus = f[5],
    bytes = tonumber(f[6]), created_at = tonumber(f[7]), tenant = f[8], func = f[9] or '',
    waited_ms = f[10] and tonumber(f[10]) or 0, peak = f[11] or '', host = f[12], host_memory = f[13] and tonumber(f[13]) or 0,
    cpus = f[14] and tonumber(f[14]) or 0, nonce = f[15] or '', revoke_at = f[16] and tonumber(f[16]) or 0,
    seen_until = f[17] and tonumber(f[17]) or 0 }
end

-- Gives a lease's bytes back to one of its GPUs.
local function give_back(id, uuid, bytes)
  local card = read_card(uuid)
  -- Bytes are given back once, and only where they were taken: a card's hash that was lost and written anew owes nothing.
  if not card or call('HDEL', GPU_OF .. uuid, 'lease:' .. id) == 0 then return end
  card.leased = card.leased - bytes
  if card.left and card.leased == 0 and not card.drained then return forget_gpu(uuid, card) end
  write_leased(card)
  grown[uuid] = card.host
end

-- A lease's end on its tenant's account. For each function a field of running sums: number of leases, MiB-seconds,
-- milliseconds waited, held, MiB asked for, and MiB at the peak, where an agent saw it.
local function settle_account(lease, bytes)
  local field = 'f:' .. (lease.func == '' and '-' or lease.func)
  local t, account = tenant_of(lease.tenant, field)
  if not account and call('HLEN', TENANT_OF .. t.name) > 1000 then
    field = 'f:other'
    account = call('HGET', TENANT_OF .. t.name, field)
  end
  local n, area, waited, held, asked, peak = string.match(account or '0 0 0 0 0 0', '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
  local mib, held_ms = bytes / MIB, math.max(0, now - lease.created_at)
  charge(t, -bytes, field, format('%.0f %.0f %.0f %.0f %.0f %.0f', n + 1, area + mib * held_ms / 1000,
    waited + lease.waited_ms, held + held_ms, asked + mib, peak + (tonumber(lease.peak) or 0) / MIB))
  if t.held_up ~= '' then free_the_held_up(t) end
end

-- Ends a lease: its bytes come back. `how` is kept for a minute under its name, for those who ask late.
function end_lease(lease, how, kind, ...)
  local id = lease.id
  call('ZREM', LEASES, id)
  call('DEL', LEASE_OF .. id)
  call('SET', ENDED_OF .. id, lease.token .. ' ' .. how .. ' ' .. lease.nonce, 'PX', 60000)
  if queued > 0 then remove_waiter(id .. '+', 'its lease ended') end
  local total = 0
  for uuid in string.gmatch(lease.gpus, '[^,]+') do
    give_back(id, uuid, lease.bytes)
    total = total + lease.bytes
  end
  settle_account(lease, total)
  if lease.host_memory > 0 or lease.cpus > 0 then charge_host(lease.host, -lease.host_memory, -lease.cpus) end
  journal(kind, 'id', id, 'token', lease.token, 'gpu_uuids', lease.gpus, 'memory_bytes', int(lease.bytes),
    'held_ms', int(math.max(0, now - lease.created_at)), 'tenant', lease.tenant, 'function', lease.func,
    'waited_ms', int(lease.waited_ms), 'peak_bytes', lease.peak, ...)
end
