-- Cards for those who ask for a host, a card, a class, or several cards at once.
-- needs: keys ledger gpu cards place lease wide
-- gives: suits better indexes_of kept_cards chosen_cards

-- Versions such as 8.6 in one number; unknown is below all.
local function version(text)
  local major, minor = string.match(text, '^(%d+)%.(%d+)$')
  return major and tonumber(major) * 1000 + tonumber(minor) or -1
end

-- Whether cards of a class ("capability|mig|labels") are what a request selects.
function suits(ask, class)
  if ask.plain then return true end
  local capability, mig, labels = string.match(class, '^(.-)|(.-)|(.*)$')
  if ask.capability ~= '' and version(capability or '') < version(ask.capability) then return false end
  if ask.mig == 'none' and (mig or '') ~= '' or ask.mig == 'only' and (mig or '') == '' then return false end
  if ask.mig ~= '' and ask.mig ~= 'none' and ask.mig ~= 'only' and mig ~= ask.mig then return false end
  for pair in string.gmatch(ask.labels, '[^,]+') do
    if not string.find(',' .. (labels or '') .. ',', ',' .. pair .. ',', 1, true) then return false end
  end
  return true
end

-- How little a card is liked by the default placement, in shares of the card: what is left over, counted twice where it
-- is too little for another request of this size (it would be stranded), and the heat.
local HEAT = { OPTIMAL = 0, NORMAL = 0.1, THROTTLED = 0.5 }
local function dislike(card, bytes)
  local left, whole_card = card.budget - card.leased - bytes, math.max(1, card.capacity)
  return (left >= bytes and left or 2 * left) / whole_card + (HEAT[card.job_state] or 1)
end

-- °C; a card that tells none is taken for the hottest.
local function temperature(card)
  card.temperature = card.temperature or tonumber(call('HGET', GPU_OF .. card.uuid, 'temperature_c') or '') or 999
  return card.temperature
end

-- The better of two cards for a way of placing.
function better(way, bytes, x, y)
  if way == 'cool' then
    local tx, ty = temperature(x), temperature(y)
    if tx ~= ty then return tx < ty end
  end
  if way == '' then
    local dx, dy = dislike(x, bytes), dislike(y, bytes)
    if dx ~= dy then return dx < dy end
  end
  local left, right = x.budget - x.leased, y.budget - y.leased
  if left ~= right then
    if way == 'spread' then return left > right end
    return left < right
  end
  return x.uuid < y.uuid
end

-- The lawful cards of a host, best first.
local function lawful_of(host, ask, bytes, not_these)
  local cards = {}
  for _, uuid in ipairs(host_gpus(host)) do
    local card = not not_these[uuid] and read_card(uuid)
    local why = card and obstacle(ask, card, bytes)
    if card and not why then
      table.insert(cards, card)
    elseif why == 'silent' then
      put_right(uuid, card)
    end
  end
  table.sort(cards, function(x, y) return better(ask.placement, bytes, x, y) end)
  return cards
end

-- The indexes in which a request's cards are found.
function indexes_of(ask)
  if ask.plain then return { FREE } end
  local found = {}
  for _, class in ipairs(call('HKEYS', CLASSES)) do -- at most 64, see publish_sample
    if suits(ask, class) then table.insert(found, FREE .. '@' .. class) end
  end
  -- Cards of which their agent told nothing have no class, and are looked for among the first of all.
  if suits(ask, '') then table.insert(found, FREE) end
  return found
end

-- One card with so many bytes for the request.
local function one_card(ask, bytes, not_these)
  if ask.gpu ~= '' then
    local card = not not_these[ask.gpu] and read_card(ask.gpu)
    local why = card and obstacle(ask, card, bytes)
    if why == 'silent' then put_right(ask.gpu, card) end
    return card and not why and card or nil
  end
  if ask.host ~= '' then return lawful_of(ask.host, ask, bytes, not_these)[1] end
  local best
  for _, index in ipairs(indexes_of(ask)) do
    local card = best_of(index, ask, bytes, not_these)
    if card and (not best or better(ask.placement, bytes, card, best)) then best = card end
  end
  return best
end

-- Several cards of one host, all or nothing: at most 16 hosts that have so many cards with room are looked at.
local function cards_of_one_host(ask, want, not_these)
  local names
  if ask.host ~= '' then
    names = { ask.host .. '#' }
  else
    widen()
    local least, most = want.count * SPAN + want.bytes, (want.count + 1) * SPAN - 1
    if ask.placement == 'spread' then
      names = call('ZREVRANGEBYSCORE', WIDE, int(most), int(least), 'LIMIT', 0, 16)
    else
      names = call('ZRANGEBYSCORE', WIDE, int(least), int(most), 'LIMIT', 0, 16)
    end
  end
  for _, entry in ipairs(names) do
    local cards = lawful_of(string.match(entry, '^(.-)#'), ask, want.bytes, not_these)
    if #cards >= want.count then return { unpack(cards, 1, want.count) } end
  end
  return nil
end

-- Cards that are kept for the request itself, or that it may take from those who come after it.
function kept_cards(ask, want)
  local uuids = {}
  if ask.reserved ~= '' then
    for uuid in string.gmatch(ask.reserved, '[^,]+') do table.insert(uuids, uuid) end
  else
    uuids = call('ZRANGEBYSCORE', RESERVED, want.bytes, '+inf', 'LIMIT', 0, 16)
  end
  local by_host = {}
  for _, uuid in ipairs(uuids) do
    local card = read_card(uuid)
    if card and not obstacle(ask, card, want.bytes) then
      local cards = by_host[card.host] or {}
      by_host[card.host] = cards
      table.insert(cards, card)
      if #cards == want.count then return cards end
    end
  end
  return nil
end

-- A lease that grows does so where it is: its cards, if all have room.
local function own_cards(ask, want)
  local cards, lease = {}, read_lease(ask.grows)
  if not lease or lease.state == 'reclaiming' or lease.expires_at <= now then return nil end
  for uuid in string.gmatch(ask.gpu, '[^,]+') do
    local card = read_card(uuid)
    if not card or obstacle(ask, card, want.bytes) then return nil end
    table.insert(cards, card)
  end
  return cards
end

function chosen_cards(ask, want, not_these)
  if ask.grows then return own_cards(ask, want) end
  local cards
  if want.count == 1 then
    local card = one_card(ask, want.bytes, not_these)
    cards = card and { card }
  else
    cards = cards_of_one_host(ask, want, not_these)
  end
  return cards or queued > 0 and kept_cards(ask, want) or nil
end
