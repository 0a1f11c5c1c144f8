-- The lease, written.
-- needs: keys ledger gpu tenant host
-- gives: take grant

-- Takes the bytes of each card. `key` names the lease's field in the cards' hashes. Returns the texts for the journal.
function take(cards, id, bytes, more, kept_for)
  local field, text, uuids, leased, budgets = 'lease:' .. id, int(bytes), '', '', ''
  for i, card in ipairs(cards) do
    if card.reserved == kept_for then card.reserved = '' end -- its reservation ended when it left the queue
    card.leased, card.takes = card.leased + more, more > 0
    local comma = i > 1 and ',' or ''
    uuids, leased = uuids .. comma .. card.uuid, leased .. comma .. write_leased(card, field, text)
    budgets = budgets .. comma .. int(card.budget)
  end
  return uuids, leased, budgets
end

-- What a lease has beside, where it has it: names and values in turn.
local function more_of(ask)
  local more = {}
  local function also(field, value)
    if value and value ~= '' and value ~= 0 then
      more[#more + 1] = field
      more[#more + 1] = type(value) == 'number' and int(value) or value
    end
  end
  also('function', ask.func)
  also('host_memory_bytes', ask.host_memory)
  also('cpus_milli', ask.cpus)
  also('pid_started', ask.pid_started)
  also('crew', ask.crew)
  also('worker', ask.worker)
  also('adopted', ask.adopted)
  also('registered', ask.registered)
  also('nonce', ask.nonce)
  return unpack(more)
end

-- Writes the lease. `standing` is 'active' for a caller who is here and 'granted' for a waiter who has yet to claim it.
-- Returns token and expiry as text, and the UUIDs.
function grant(ask, placed, standing, ttl_ms, waited_ms, kind, given_token)
  if not given_token then token = token + 1 end
  local uuids, leased, budgets = take(placed.cards, ask.id, placed.bytes, placed.bytes, ask.id)
  local host, expires, text = placed.cards[1].host, now + ttl_ms, given_token or int(token)
  local bytes, until_ms, waited, choice = int(placed.bytes), int(expires), int(waited_ms), int(placed.choice)
  call('HSET', LEASE_OF .. ask.id, 'id', ask.id, 'gpu_uuids', uuids, 'host', host, 'memory_bytes', bytes, 'token', text,
    'owner', ask.owner, 'tenant', ask.tenant, 'priority', ask.priority, 'state', standing, 'created_at', int(now),
    'expires_at', until_ms, 'ttl_ms', int(ask.ttl_ms), 'waited_ms', waited, 'job_id', ask.job_id, 'pid', ask.pid,
    'used_bytes', '', 'peak_bytes', '', 'request', ask.request, 'choice', choice, more_of(ask))
  call('ZADD', LEASES, due(expires), ask.id)
  charge(tenant_of(ask.tenant), placed.bytes * #placed.cards)
  if ask.host_memory > 0 or ask.cpus > 0 then charge_host(host, ask.host_memory, ask.cpus) end
  journal(kind or 'granted', 'id', ask.id, 'token', text, 'gpu_uuids', uuids, 'host', host, 'memory_bytes', bytes,
    'leased_bytes', leased, 'budget_bytes', budgets, 'waited_ms', waited, 'tenant', ask.tenant, 'priority', ask.priority,
    'job_id', ask.job_id, 'choice', choice, 'function', ask.func, unpack(ask.worker and { 'worker', ask.worker } or {}))
  return text, until_ms, uuids
end
