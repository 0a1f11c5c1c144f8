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

-- Where it is switched on: a request that has to wait asks leases of lower priority to end, on the card that is kept for
-- it. At most 256 leases of a card are looked at, and 16 asked.
function preempt(ask)
  if setting('preempt', 0) ~= 1 then return end
  local waiter = read_waiter(ask.id)
  if waiter.reserved == '' and not reserve(waiter) then return end
  local grace_ms, asked = setting_ms('preempt_grace_seconds', 30), 0
  for uuid in string.gmatch(waiter.reserved, '[^,]+') do
    local card, victims = read_card(uuid), {}
    local missing = tonumber(call('HGET', GPU_OF .. uuid, 'reserved_bytes')) - (card.budget - card.leased)
    local found = call('HSCAN', GPU_OF .. uuid, 0, 'MATCH', 'lease:*', 'COUNT', 256)[2]
    for i = 1, math.min(#found, 512), 2 do
      local one = victim(string.sub(found[i], 7), tonumber(ask.priority))
      if one then table.insert(victims, one) end
    end
    table.sort(victims, function(x, y) -- the least important first, the youngest among equals
      return x.priority < y.priority or (x.priority == y.priority and x.lease.created_at > y.lease.created_at)
    end)
    for _, one in ipairs(victims) do
      if missing <= 0 or asked == 16 then break end
      revoke_lease(one.lease, grace_ms, 'preempted by ' .. ask.id)
      missing, asked = missing - one.lease.bytes, asked + 1
    end
  end
end
