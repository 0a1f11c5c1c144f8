-- A host's memory and processors, lent beside its GPUs to those who ask for them.
-- needs: keys ledger wide
-- shares: hosts
-- gives: host_of host_lacks host_too_small charge_host

hosts = {} -- each read once a script

function host_of(host)
  local h = hosts[host]
  if h then return h end
  local f = call('HMGET', HOST_OF .. host, 'memory_bytes', 'cpus_milli', 'leased_memory_bytes', 'leased_cpus_milli')
  -- What a host did not tell it has not got to lend.
  h = { memory = tonumber(f[1] or 0), cpus = tonumber(f[2] or 0), leased_memory = tonumber(f[3] or 0),
    leased_cpus = tonumber(f[4] or 0) }
  hosts[host] = h
  return h
end

-- What of a host's own is too little for a request now: 'host_memory', 'cpus' or nil.
function host_lacks(ask, host)
  if ask.host_memory == 0 and ask.cpus == 0 then return nil end
  local h = host_of(host)
  if ask.host_memory > 0 and h.leased_memory + ask.host_memory > h.memory then return 'host_memory' end
  if ask.cpus > 0 and h.leased_cpus + ask.cpus > h.cpus then return 'cpus' end
  return nil
end

-- Whether the host could never serve it, even with nothing lent.
function host_too_small(ask, host)
  local h = host_of(host)
  return ask.host_memory > h.memory or ask.cpus > h.cpus
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
  if memory < 0 or cpus < 0 then grown['=host:' .. host] = 'host:' .. host end
end
