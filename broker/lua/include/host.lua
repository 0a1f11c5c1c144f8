-- A host's memory and processors, lent beside its GPUs to those who ask for them.
-- needs: keys ledger wide
-- shares: hosts_read
-- gives: host_of host_lacks host_too_small host_grew charge_host keep_host keep_host_no_more

hosts_read = {} -- each once a script

function host_of(host)
  local h = hosts_read[host]
  if h then return h end
  local f = call('HMGET', HOST_OF .. host, 'memory_bytes', 'cpus_milli', 'leased_memory_bytes', 'leased_cpus_milli',
    'kept_for', 'kept_memory_bytes', 'kept_cpus_milli', 'gpus')
  -- What a host did not tell it has not got to lend.
  h = { memory = tonumber(f[1] or 0), cpus = tonumber(f[2] or 0), leased_memory = tonumber(f[3] or 0),
    leased_cpus = tonumber(f[4] or 0), kept_for = f[5] or '', kept_memory = tonumber(f[6] or 0),
    kept_cpus = tonumber(f[7] or 0), gpus = f[8] or '' }
  hosts_read[host] = h
  return h
end

-- What of a host's own is too little for a request now: 'host_memory', 'cpus' or nil.
function host_lacks(ask, host)
  if ask.host_memory == 0 and ask.cpus == 0 then return nil end
  local h, memory, cpus = host_of(host), ask.host_memory, ask.cpus
  if h.kept_for ~= '' and h.kept_for ~= ask.id
      and tonumber(call('HGET', WAITER_OF .. h.kept_for, 'priority') or -9999) >= tonumber(ask.priority) then
    memory, cpus = memory + h.kept_memory, cpus + h.kept_cpus
  end
  if ask.host_memory > 0 and h.leased_memory + memory > h.memory then return 'host_memory' end
  if ask.cpus > 0 and h.leased_cpus + cpus > h.cpus then return 'cpus' end
  return nil
end

-- Whether the host could never serve it, even with nothing lent.
function host_too_small(ask, host)
  local h = host_of(host)
  return ask.host_memory > h.memory or ask.cpus > h.cpus
end

-- More of a host's own is free: any of its cards may serve one who waited for that.
function host_grew(host)
  for _, uuid in ipairs(host_gpus(host)) do grown[uuid] = host end
end

-- law 7: what one who waits with cards kept for it wants of their host gathers for it as well.
function keep_host(host, id, memory, cpus)
  local h = host_of(host)
  h.kept_for, h.kept_memory, h.kept_cpus = id, memory, cpus
  call('HSET', HOST_OF .. host, 'kept_for', id, 'kept_memory_bytes', int(memory), 'kept_cpus_milli', int(cpus))
end

function keep_host_no_more(host, id)
  local h = host_of(host)
  if h.kept_for ~= id then return end
  h.kept_for, h.kept_memory, h.kept_cpus = '', 0, 0
  call('HDEL', HOST_OF .. host, 'kept_for', 'kept_memory_bytes', 'kept_cpus_milli')
  host_grew(host)
end

function charge_host(host, memory, cpus)
  if memory == 0 and cpus == 0 then return end
  local h = host_of(host)
  h.leased_memory, h.leased_cpus = math.max(0, h.leased_memory + memory), math.max(0, h.leased_cpus + cpus)
  if h.leased_memory == 0 and h.leased_cpus == 0 and call('SISMEMBER', HOSTS, host) == 0
      and call('HGET', HOST_OF .. host, 'drained') ~= '1' then
    call('DEL', HOST_OF .. host) -- its agent left, and now its last lease
  else
    call('HSET', HOST_OF .. host, 'leased_memory_bytes', int(h.leased_memory), 'leased_cpus_milli', int(h.leased_cpus))
  end
  if memory < 0 or cpus < 0 then host_grew(host) end
end
