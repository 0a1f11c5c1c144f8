-- law 3: whoever runs a script ends what is over. Bounded: eight of each kind a script (law 13).
-- needs: keys ledger gpu cards queue lease crew
-- gives: reap_all

-- active -> reclaiming -> gone. An expired lease still counts for the lock delay: its holder may only be paused, with
-- its memory in use; and for longer, while an agent says that its process is there. A grant that nobody claimed never
-- ran, so its bytes move on at once.
local function reap_leases()
  local reclaim_ms = setting_ms('reclaim_seconds', 5)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 8)) do
    local lease = read_lease(id)
    local how = lease and lease.revoke_at > 0 and lease.revoke_at <= now and 'revoked' or 'expired'
    if not lease then
      call('ZREM', LEASES, id)
    elseif lease.state == 'active' and reclaim_ms > 0 then
      if queued > 0 then remove_waiter(id .. '+', 'its lease is over') end
      call('HSET', LEASE_OF .. id, 'state', 'reclaiming')
      call('ZADD', LEASES, now + reclaim_ms, id)
      journal('expired', 'id', id, 'token', lease.token, 'gpu_uuids', lease.gpus, 'memory_bytes', int(lease.bytes),
        'why', how)
    elseif lease.state == 'reclaiming' and lease.seen_until > now then
      call('ZADD', LEASES, lease.seen_until, id)
    else
      end_lease(lease, how, lease.state == 'granted' and 'unclaimed' or 'reclaimed', 'why', 'delay')
    end
  end
end

-- law 8: an agent silent for longer than its freshness limit.
local function reap_silent_gpus()
  for _, uuid in ipairs(call('ZRANGEBYSCORE', FRESH, '-inf', '(' .. int(now), 'LIMIT', 0, 8)) do
    local card = read_card(uuid)
    if card then close_gpu(card, 'no sample since ' .. card.sampled_at) else forget_gpu(uuid) end
  end
end

-- law 7: a waiter that died does not hold its place. One of a crew lives while a worker of it does, on whatever host.
local function reap_silent_waiters()
  for _, id in ipairs(call('ZRANGEBYSCORE', WAITING, '-inf', '(' .. int(now), 'LIMIT', 0, 8)) do
    local crew = call('HGET', WAITER_OF .. id, 'crew')
    if crew and call('ZCOUNT', CREW_OF .. crew, int(now), '+inf') > 0 then
      show_life(id, crew)
    else
      remove_waiter(id, 'silent')
      call('SET', ENDED_OF .. id, '0 dropped ', 'PX', 60000)
      journal('dropped', 'id', id, 'reason', 'silent')
    end
  end
end

function reap_all()
  reap_leases()
  reap_silent_gpus()
  reap_silent_waiters()
  soonest = math.huge
  for _, deadlines in ipairs({ LEASES, FRESH, WAITING }) do
    due(tonumber(call('ZRANGE', deadlines, 0, 0, 'WITHSCORES')[2] or 9007199254740991))
  end
end
