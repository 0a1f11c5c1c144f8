-- law 3: whoever runs a script ends what is over. Bounded: eight of each kind a script (law 13).
-- needs: keys, ledger, gpu

-- active -> reclaiming -> gone. An expired lease still counts for the lock delay: its holder may only be paused, with
-- its memory in use. A grant that nobody claimed never ran, so its bytes move on at once.
local function reap_leases()
  local reclaim_ms = setting_ms('reclaim_seconds', 5)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 8)) do
    local lease = call('HMGET', LEASE_OF .. id, 'state', 'token', 'gpu_uuids', 'memory_bytes')
    if lease[1] == 'active' and reclaim_ms > 0 then
      call('HSET', LEASE_OF .. id, 'state', 'reclaiming')
      call('ZADD', LEASES, now + reclaim_ms, id)
      journal('expired', 'id', id, 'token', lease[2], 'gpu_uuids', lease[3], 'memory_bytes', lease[4])
    else
      call('ZREM', LEASES, id)
      if lease[1] then
        call('DEL', LEASE_OF .. id)
        call('SET', ENDED_OF .. id, lease[2] .. ' expired', 'PX', 60000)
        give_back(id, lease[3], tonumber(lease[4]))
        journal(lease[1] == 'granted' and 'unclaimed' or 'reclaimed', 'id', id, 'token', lease[2],
          'gpu_uuids', lease[3], 'memory_bytes', lease[4])
      end
    end
  end
end

-- law 8: an agent silent for longer than its freshness limit.
local function reap_silent_gpus()
  for _, uuid in ipairs(call('ZRANGEBYSCORE', FRESH, '-inf', '(' .. int(now), 'LIMIT', 0, 8)) do
    local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'sampled_at')
    if gpu[1] then
      close_gpu(uuid, gpu[1], gpu[2], 'no sample since ' .. gpu[3])
    else
      forget_gpu(uuid)
    end
  end
end

-- law 7: a waiter that died does not hold its place.
local function reap_silent_waiters()
  for _, id in ipairs(call('ZRANGEBYSCORE', WAITING, '-inf', '(' .. int(now), 'LIMIT', 0, 8)) do
    call('ZREM', WAITING, id)
    call('ZREM', WAITERS, id)
    call('DEL', WAITER_OF .. id)
    call('SET', ENDED_OF .. id, '0 dropped', 'PX', 60000)
    journal('dropped', 'id', id, 'reason', 'silent')
    grew = true -- it may have held others back
  end
end

local function reap()
  if now < soonest or now < grace_until then return end
  reap_leases()
  reap_silent_gpus()
  reap_silent_waiters()
  soonest = math.huge
  for _, deadlines in ipairs({ LEASES, FRESH, WAITING }) do
    due(tonumber(call('ZRANGE', deadlines, 0, 0, 'WITHSCORES')[2] or 9007199254740991))
  end
end
