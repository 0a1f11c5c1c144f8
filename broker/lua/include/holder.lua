-- law 5: who may touch a lease. Reads only.
-- needs: keys ledger lease
-- gives: held_by is_over lost prolong

-- The lease for its rightful holder; or nil and an error reply, and how it ended.
-- BROKER_STALE_TOKEN: another holds it now. BROKER_LEASE_LOST: it was this holder's and is over.
-- BROKER_LEASE_NOT_FOUND: the ledger knows no such lease.
function held_by(id, holder)
  local lease = read_lease(id)
  if lease then
    if lease.token ~= holder then
      return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. id .. ' got=' .. holder)
    end
    return lease
  end
  local ended, how = string.match(call('GET', ENDED_OF .. id) or '', '^(%d+) (%a+)')
  if not ended or ended == '0' then return nil, redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. id) end
  if ended ~= holder then
    return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. id .. ' got=' .. holder)
  end
  return nil, redis.error_reply('BROKER_LEASE_LOST lease=' .. id .. ' why=' .. how), how
end

-- Over at its very last millisecond, but not while expiry pauses after a step of the clock.
function is_over(lease)
  return lease.state == 'reclaiming' or (lease.expires_at <= now and now >= grace_until)
end

function lost(lease)
  local why = lease.revoke_at > 0 and lease.revoke_at <= now and 'revoked' or 'expired'
  return redis.error_reply('BROKER_LEASE_LOST lease=' .. lease.id .. ' why=' .. why)
end

-- The lease lives one TTL from now, a revoked one at most to its deadline. Returns the new end as text.
function prolong(lease, ttl_ms, ...)
  local expires = now + ttl_ms
  if lease.revoke_at > 0 then expires = math.min(expires, math.max(lease.revoke_at, now + 1)) end
  call('HSET', LEASE_OF .. lease.id, 'expires_at', int(expires), 'state', 'active', ...)
  call('ZADD', LEASES, due(expires), lease.id)
  if lease.expires_at <= now and queued > 0 then -- what it asked to grow by while its time seemed over, it may have now
    for uuid in string.gmatch(lease.gpus, '[^,]+') do grown[uuid] = lease.host end
  end
  return int(expires)
end
