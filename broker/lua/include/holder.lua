-- law 5: who may touch a lease. Reads only.
-- needs: keys, ledger

-- The lease's fields for its rightful holder; or nil and an error reply.
-- BROKER_STALE_TOKEN: another holds it now. BROKER_LEASE_LOST: it was this holder's and is over.
-- BROKER_LEASE_NOT_FOUND: the ledger knows no such lease.
local function held_by(id, holder)
  local lease = call('HMGET', LEASE_OF .. id, 'token', 'state', 'expires_at', 'ttl_ms', 'gpu_uuids', 'memory_bytes',
    'created_at')
  if lease[1] then
    if lease[1] ~= holder then
      return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. id .. ' have=' .. lease[1] .. ' got=' .. holder)
    end
    return { state = lease[2], expires_at = tonumber(lease[3]), ttl_ms = tonumber(lease[4]), gpu = lease[5],
      bytes = tonumber(lease[6]), created_at = tonumber(lease[7]) }
  end
  local ended, how = string.match(call('GET', ENDED_OF .. id) or '', '^(%d+) (%a+)$')
  if not ended then return nil, redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. id) end
  if ended ~= holder then
    return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. id .. ' have=' .. ended .. ' got=' .. holder)
  end
  return nil, redis.error_reply('BROKER_LEASE_LOST lease=' .. id .. ' why=' .. how), how
end

-- Over at its very last millisecond, but not while expiry pauses after a step of the clock.
local function is_over(lease)
  return lease.state == 'reclaiming' or (lease.expires_at <= now and now >= grace_until)
end
