-- law 7: small requests may pass a waiter that wants more than there is, bypass_max times; from then on the free bytes of
-- one card, or of one host's cards for a gang, gather for it alone, and all others go on elsewhere.
-- needs: keys ledger gpu tenant host cards queue place choose wide
-- gives: cards_to_keep keep reserve first_before passes

-- A card that could hold so many bytes for the request if its other leases ended.
local function could_hold(ask, card, bytes)
  return lends[card.state] and not card.drained and card.fresh_until >= now and card.budget >= bytes
    and card.reserved == '' and (ask.host == '' or ask.host == card.host) and suits(ask, card.class)
    and (ask.gpu == '' or string.find(',' .. ask.gpu .. ',', ',' .. card.uuid .. ',', 1, true) ~= nil)
end

-- UUIDs worth a look for a reservation: those with most free bytes below what is wanted, then any that are large enough.
local function likely_cards(ask, bytes)
  if ask.gpu ~= '' then return { string.match(ask.gpu, '^[^,]+') } end
  if ask.host ~= '' then return host_gpus(ask.host) end
  local uuids = {}
  for _, index in ipairs(indexes_of(ask)) do
    for _, uuid in ipairs(call('ZREVRANGE', index, 0, 15)) do table.insert(uuids, uuid) end
  end
  for _, uuid in ipairs(call('ZRANGEBYSCORE', CAPACITY, bytes, '+inf', 'LIMIT', 0, 16)) do table.insert(uuids, uuid) end
  return uuids
end

-- The card that needs the fewest bytes to come free, or for a gang the cards of one such host.
function cards_to_keep(ask, want)
  local function freer(x, y) return x.budget - x.leased > y.budget - y.leased end
  local best, seen = nil, {}
  for _, uuid in ipairs(likely_cards(ask, want.bytes)) do
    local first = read_card(uuid)
    local place_of = first and (want.count == 1 and uuid or first.host)
    if first and not seen[place_of] and not host_too_small(ask, first.host) then
      seen[place_of] = true
      local cards, free = {}, 0
      for _, other in ipairs(want.count == 1 and { uuid } or host_gpus(first.host)) do
        local card = other == uuid and first or read_card(other)
        if card and could_hold(ask, card, want.bytes) then table.insert(cards, card) end
      end
      table.sort(cards, freer)
      for i = 1, math.min(want.count, #cards) do free = free + math.min(want.bytes, cards[i].budget - cards[i].leased) end
      if #cards >= want.count and (not best or free > best.free) then
        best = { free = free, cards = { unpack(cards, 1, want.count) } }
      end
    end
  end
  return best and best.cards
end

-- Keeps these cards for a waiter.
function keep(waiter, cards, bytes)
  local uuids = {}
  for _, card in ipairs(cards) do
    call('HSET', GPU_OF .. card.uuid, 'reserved_for', waiter.id, 'reserved_bytes', int(bytes))
    card.reserved = waiter.id
    offer(card)
    table.insert(uuids, card.uuid)
  end
  waiter.reserved = table.concat(uuids, ',')
  call('HSET', WAITER_OF .. waiter.id, 'reserved_gpus', waiter.reserved)
  journal('reserved', 'id', waiter.id, 'gpu_uuids', waiter.reserved)
end

-- Keeps cards for a waiter. False if none could ever hold it: then nobody passes it in truth.
function reserve(waiter)
  if not within_quota(tenant_of(waiter.tenant), least_bytes(waiter)) then return false end
  for _, want in ipairs(waiter.wants) do
    local cards = cards_to_keep(waiter, want)
    if cards then
      keep(waiter, cards, want.bytes)
      return true
    end
  end
  return false
end

-- The first waiter who stands before a place in the queue, could use the card but for room, and has no card kept for it.
function first_before(ask, score, card)
  local best
  for _, group in ipairs(groups_of(card.uuid, card.host)) do
    local heads = call('ZRANGEBYSCORE', LINES_OF .. group, '-inf', '(' .. format('%.0f', score), 'LIMIT', 0, 8)
    for _, line in ipairs(heads) do
      for i, id in ipairs(call('ZRANGE', LINE_OF .. line, 0, 3)) do
        local waiter = id ~= ask.id and read_waiter(id)
        local at = waiter and tonumber(call('ZSCORE', WAITERS, id) or 0)
        if waiter and at < score and waiter.reserved == '' then
          if least_bytes(waiter) <= card.budget and (not best or at < best.at) and could_hold(waiter, card, 1) then
            waiter.at, best = at, waiter
          end
          break
        end
      end
    end
  end
  return best
end

-- Whether a request may take bytes of these cards; whoever is passed by it counts it. Cards that are now kept for one
-- who would have been passed once too often are added to `not_these`.
function passes(ask, score, cards, not_these)
  if queued == 0 or (queued == 1 and ask.line) then return true end
  local bypass_max, passed = setting('bypass_max', 64), {}
  for _, card in ipairs(cards) do
    if card.reserved == '' then
      local waiter = first_before(ask, score, card)
      if waiter and waiter.bypassed >= bypass_max and reserve(waiter) then
        local kept
        for uuid in string.gmatch(waiter.reserved, '[^,]+') do
          for _, mine in ipairs(cards) do kept = kept or mine.uuid == uuid end
          not_these[uuid] = true
        end
        if kept then return false end
      elseif waiter then
        passed[waiter.id] = waiter
      end
    end
  end
  for id, waiter in pairs(passed) do call('HSET', WAITER_OF .. id, 'bypassed', int(waiter.bypassed + 1)) end
  return true
end
