-- The lease, resized and revoked.
-- needs: keys ledger gpu tenant share grant lease copies
-- gives: resize_lease revoke_lease

-- A lease that grows or shrinks to so many bytes of each of its cards.
function resize_lease(lease, cards, bytes, nonce)
  local more = bytes - lease.bytes
  local uuids, leased, budgets = take(cards, lease.id, bytes, more, lease.id .. '+')
  call('HSET', LEASE_OF .. lease.id, 'memory_bytes', int(bytes))
  hear(lease.id, nonce)
  charge(tenant_of(lease.tenant), more * #cards)
  if more < 0 then
    for _, card in ipairs(cards) do grown[card.uuid] = card.host end
    free_the_held_up(tenant_of(lease.tenant))
  end
  journal('resized', 'id', lease.id, 'token', lease.token, 'gpu_uuids', uuids, 'memory_bytes', int(bytes),
    'before_bytes', int(lease.bytes), 'leased_bytes', leased, 'budget_bytes', budgets, 'tenant', lease.tenant)
end

-- The lease must end: its holder has `grace_ms` to do so itself. A deadline only moves nearer.
function revoke_lease(lease, grace_ms, reason)
  local at = now + grace_ms
  if lease.revoke_at > 0 and lease.revoke_at <= at then return lease.revoke_at end
  call('HSET', LEASE_OF .. lease.id, 'revoke_at', int(at), 'revoke_reason', reason)
  if at < lease.expires_at then
    call('HSET', LEASE_OF .. lease.id, 'expires_at', int(at))
    call('ZADD', LEASES, due(at), lease.id)
  end
  journal('revoked', 'id', lease.id, 'token', lease.token, 'revoke_at', int(at), 'reason', reason)
  return at
end
