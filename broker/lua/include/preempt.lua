-- Higher priorities in place of lower ones, where that is switched on.
-- needs: keys ledger gpu queue reserve lease change
-- gives: preempt

-- A lease's priority, if it could make room.
local function victim(id, priority)
  local lease = read_lease(id)
  local own = lease and lease.state ~= 'reclaiming' and lease.revoke_at == 0
    and tonumber(call('HGET', LEASE_OF .. id, 'priority'))
  return own and own < priority and { lease = lease, priority = own } or nil
end

-- The leases of lower priority whose end would make so much room on a card: the least important first, the youngest among
-- equals. Nil if there are not enough. At most 256 leases of a card are looked at.
local function victims_on(card, missing, priority)
  local found, possible, chosen = call('HSCAN', GPU_OF .. card.uuid, 0, 'MATCH', 'lease:*', 'COUNT', 256)[2], {}, {}
  for i = 1, math.min(#found, 512), 2 do
    local one = victim(string.sub(found[i], 7), priority)
    if one then table.insert(possible, one) end
  end
  table.sort(possible, function(x, y)
    return x.priority < y.priority or (x.priority == y.priority and x.lease.created_at > y.lease.created_at)
  end)
  for _, one in ipairs(possible) do
    if missing <= 0 or #chosen == 16 then break end
    table.insert(chosen, one.lease)
    missing = missing - one.lease.bytes
  end
  return missing <= 0 and chosen or nil
end

-- Where it is switched on: a request that has to wait asks leases of lower priority to end, where that makes the room and
-- nobody waits before it. The cards are kept for it meanwhile.
function preempt(ask, score)
  if setting('preempt', 0) ~= 1 then return end
  local waiter = read_waiter(ask.id)
  if waiter.reserved ~= '' or not within_quota(tenant_of(waiter.tenant), least_bytes(waiter)) then return end
  for _, want in ipairs(waiter.wants) do
    local cards, ending = cards_to_keep(waiter, want), {}
    for _, card in ipairs(cards or {}) do
      local some = not first_before(ask, score, card)
        and victims_on(card, want.bytes - (card.budget - card.leased), tonumber(ask.priority))
      if not some then
        cards = nil
        break
      end
      for _, lease in ipairs(some) do table.insert(ending, lease) end
    end
    if cards then
      keep(waiter, cards, want.bytes)
      local grace_ms = setting_ms('preempt_grace_seconds', 30)
      for _, lease in ipairs(ending) do revoke_lease(lease, grace_ms, 'preempted by ' .. ask.id) end
      return
    end
  end
end
