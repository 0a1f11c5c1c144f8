-- Higher priorities in place of lower ones, where that is switched on.
-- needs: keys ledger gpu tenant host queue reserve lease change
-- gives: preempt


-- Adds the leases of lower priority whose end would make so much room on a card: the least important first, the youngest
-- among equals. False if there are not enough. What is coming back anyway makes room too. At most 256 leases of a card
-- are looked at.
local function add_victims(ending, card, missing, priority)
  local found, possible, chosen = call('HSCAN', GPU_OF .. card.uuid, 0, 'MATCH', 'lease:*', 'COUNT', 256)[2], {}, 0
  for i = 1, math.min(#found, 512), 2 do
    local lease = read_lease(string.sub(found[i], 7))
    if lease and (lease.state == 'reclaiming' or lease.revoke_at > 0 or ending[lease.id]) then
      missing = missing - lease.bytes
    elseif lease then
      local own = tonumber(call('HGET', LEASE_OF .. lease.id, 'priority'))
      if own < priority then table.insert(possible, { lease = lease, priority = own }) end
    end
  end
  table.sort(possible, function(x, y)
    return x.priority < y.priority or (x.priority == y.priority and x.lease.created_at > y.lease.created_at)
  end)
  for _, one in ipairs(possible) do
    if missing <= 0 or chosen == 16 then break end
    ending[one.lease.id], chosen = one.lease, chosen + 1
    missing = missing - one.lease.bytes
  end
  return missing <= 0
end

-- Where it is switched on: a request that has to wait asks leases of lower priority to end, where that makes the room and
-- nobody waits before it. The cards are kept for it meanwhile. It asks so again at each sign of its life, since the pool
-- may have had nothing for it before.
function preempt(ask, score)
  if setting('preempt', 0) ~= 1 or settling then return end
  local waiter = read_waiter(ask.id)
  if waiter.reserved ~= '' then return end
  for _, want in ipairs(waiter.wants) do
    local allowed = within_quota(tenant_of(waiter.tenant), want.count * want.bytes)
    local cards, ending = allowed and cards_to_keep(waiter, want), {}
    for _, card in ipairs(cards or {}) do
      if host_lacks(waiter, card.host) or first_before(ask, score, card)
          or not add_victims(ending, card, want.bytes - (card.budget - card.leased), tonumber(ask.priority)) then
        cards = nil
        break
      end
    end
    if cards then
      keep(waiter, cards, want.bytes)
      local grace_ms = setting_ms('preempt_grace_seconds', 30)
      for _, lease in pairs(ending) do revoke_lease(lease, grace_ms, 'preempted by ' .. ask.id) end
      return
    end
  end
end
