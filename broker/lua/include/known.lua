-- What the ledger knows of the name under which something is asked for.
-- needs: keys ledger queue totals crew lease
-- gives: look_up existing claim answer waiting caller

local function conflict(ask, asked)
  return redis.error_reply('BROKER_LEASE_CONFLICT lease=' .. ask.id .. ' asked=' .. asked .. ' now=' .. ask.request)
end

-- The name's own lease, if there is one; or nil and an error.
function existing(ask)
  local lease = call('HMGET', LEASE_OF .. ask.id, 'request', 'token', 'state', 'expires_at', 'gpu_uuids', 'host',
    'waited_ms', 'ttl_ms', 'memory_bytes', 'choice', 'revoke_at', 'worker')
  if not lease[1] then
    return nil, ask.token ~= '' and redis.error_reply('BROKER_LEASE_NOT_FOUND lease=' .. ask.id) or nil
  end
  if ask.token ~= '' and ask.token ~= lease[2] then
    return nil, redis.error_reply('BROKER_STALE_TOKEN lease=' .. ask.id .. ' got=' .. ask.token)
  end
  if lease[1] ~= ask.request then return nil, conflict(ask, lease[1]) end
  local over = lease[3] == 'active' and tonumber(lease[4]) <= now and now >= grace_until
  if lease[3] == 'reclaiming' or over then
    return nil, redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=expired')
  end
  return lease
end

-- Whether a call is this one, or a later one of the same client.
local function not_before(ask, nonce)
  if nonce == ask.nonce then return true end
  local client, number = string.match(nonce, '^(%w+)%-(%d+)$')
  local own, mine = string.match(ask.nonce, '^(%w+)%-(%d+)$')
  return client ~= nil and client == own and tonumber(mine) < tonumber(number)
end

-- A copy of a call that comes after its lease's end, or after it was refused or taken back, takes nothing: nobody is there
-- to hold it. Returns an error, and whether it is refused again.
local function answered_before(ask)
  local ended = ask.nonce ~= '' and call('GET', ENDED_OF .. ask.id)
  if not ended then return nil, false end
  local how, nonce, refused = string.match(ended, '^%d+ (%a+) (%S*) ?(%S*)$')
  if not_before(ask, refused) then return nil, true end
  return not_before(ask, nonce) and redis.error_reply('BROKER_LEASE_LOST lease=' .. ask.id .. ' why=' .. how) or nil, false
end

-- The waiter was granted this lease and is here to take it: from now on its own TTL runs.
function claim(ask, lease)
  local expires = now + ask.ttl_ms
  if lease[11] then expires = math.min(expires, math.max(tonumber(lease[11]), now + 1)) end
  lease[4], lease[8] = int(expires), int(ask.ttl_ms)
  call('HSET', LEASE_OF .. ask.id, 'state', 'active', 'expires_at', lease[4], 'ttl_ms', int(ask.ttl_ms))
  call('ZADD', LEASES, due(expires), ask.id)
  call('DEL', WAKE_OF .. ask.id)
  journal('claimed', 'id', ask.id, 'token', lease[2])
  save()
end

function answer(lease)
  return { 'granted', lease[2], lease[5], lease[6], lease[4], lease[7], lease[8], int(tonumber(lease[4]) - now), lease[9],
    lease[10] or '1', totals_of(lease[5]) }
end

function waiting(ask, place_in_queue)
  local handed = ask.seat ~= '' and call('LINDEX', WAKE_OF .. '@' .. string.match(ask.seat, '^%S+ (%S+)'), 0)
  return { 'waiting', int(place_in_queue), handed or '' }
end

-- The caller's own seat, if it is its still: it may have been handed a request before, which it is to hear of first.
function caller(ask)
  if call('EXISTS', WAKE_OF .. '@' .. string.match(ask.seat, '^%S+ (%S+)')) == 1 then return nil end
  if ask.sits and not call('ZSCORE', CREW_OF .. '#' .. ask.crew, ask.seat) then return nil end
  return take_seat(ask.seat)
end

-- What there is under the name: an answer, if that is all that the call is to get; the waiter; and whether what was asked was
-- refused before. Every error leaves before the first write (law 2).
function look_up(ask)
  local lease, refused = existing(ask)
  if refused then return refused end
  if lease and lease[12] and lease[12] ~= string.match(ask.seat, '^%S+ (%S+)') then return waiting(ask, 0) end
  if lease then
    if lease[3] == 'granted' then claim(ask, lease) end
    return answer(lease)
  end
  local waiter = queued > 0 and read_waiter(ask.id) or nil
  if waiter and waiter.request ~= ask.request then return conflict(ask, waiter.request) end
  if waiter then return nil, waiter, false end
  local again
  refused, again = answered_before(ask)
  return refused, nil, again
end
