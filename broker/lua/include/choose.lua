-- Cards for those who ask for a host, a card, a class, or several cards at once.
-- needs: keys ledger gpu cards place lease wide host crew
-- gives: suits better some_of indexes_of kept_cards chosen_cards

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
  if x.near ~= y.near then return x.near or false end
  return x.uuid < y.uuid
end

-- The lawful cards of a host, best first. Only those that an index names with so many bytes are read.
local function lawful_of(host, ask, bytes, not_these)
  local cards, uuids = {}, host_gpus(host)
  if #uuids == 0 then return cards end
  local free = call('ZMSCORE', FREE, unpack(uuids))
  local kept = queued > 0 and call('ZMSCORE', RESERVED, unpack(uuids)) or {}
  for i, uuid in ipairs(uuids) do
    local likely = tonumber(free[i] or kept[i] or -1) >= bytes and not not_these[uuid]
    local card = likely and read_card(uuid)
    local why = card and obstacle(ask, card, bytes)
    if card and card.host == host and not why then -- one that moved house may be named by its old host too
      table.insert(cards, card)
    elseif why == 'silent' then
      put_right(uuid, card)
    end
  end
  table.sort(cards, function(x, y) return better(ask.placement, bytes, x, y) end)
  return cards
end

-- Of an index, those between two scores, added to a list: the first `count`, and as many of the rest, others each time, so
-- that what is looked for again and again is found at last.
function some_of(index, least, most, count, largest_first, into)
  local read, from, to = largest_first and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE', least, most
  if largest_first then from, to = most, least end
  local first = call(read, index, from, to, 'LIMIT', 0, count)
  for _, name in ipairs(first) do table.insert(into, name) end
  local rest = #first == count and call('ZCOUNT', index, least, most) - count or 0
  if rest > 0 then
    local offset = count + call('HINCRBY', LEDGER, 'looked', count) % rest
    for _, name in ipairs(call(read, index, from, to, 'LIMIT', offset, count)) do table.insert(into, name) end
  end
  return into
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
  if ask.crew ~= '' then
    for i, host in ipairs(seated_hosts(ask.crew)) do
      local card = lawful_of(host, ask, bytes, not_these)[1]
      if card then card.near = i == 1 or nil end -- of cards that are alike the caller's own, which needs no hand-over
      if card and (not best or better(ask.placement, bytes, card, best)) then best = card end
    end
    return best
  end
  for _, index in ipairs(indexes_of(ask)) do
    local card = best_of(index, ask, bytes, not_these)
    if card and (not best or better(ask.placement, bytes, card, best)) then best = card end
  end
  return best
end

-- Hosts that may have so many cards with room: of the index `wide`, or for those who select, where such cards are.
local function likely_hosts(ask, want)
  local found, seen, names = {}, {}, {}
  if ask.host ~= '' then return { ask.host } end
  if ask.crew ~= '' then return seated_hosts(ask.crew) end
  if ask.plain then
    widen()
    -- One range of scores holds the hosts for each number of cards.
    local least, most = int(want.count * SPAN + want.bytes), int((want.count + 1) * SPAN - 1)
    for _, entry in ipairs(some_of(WIDE, least, most, 32, ask.placement == 'spread', {})) do
      table.insert(names, string.match(entry, '^(.-)#'))
    end
  else
    for _, index in ipairs(indexes_of(ask)) do
      for _, uuid in ipairs(some_of(index, want.bytes, '+inf', 64, ask.placement == 'spread', {})) do
        table.insert(names, call('HGET', GPU_OF .. uuid, 'host'))
      end
    end
  end
  for _, name in ipairs(names) do
    if name and not seen[name] then table.insert(found, name) end
    seen[name or ''] = true
  end
  return found
end

-- Several cards of one host, all or nothing: at most 32 hosts are looked at whose own memory and processors suffice.
local function cards_of_one_host(ask, want, not_these)
  local looked = 0
  for _, host in ipairs(likely_hosts(ask, want)) do
    if not host_lacks(ask, host) then
      local cards = lawful_of(host, ask, want.bytes, not_these)
      if #cards >= want.count then return { unpack(cards, 1, want.count) } end
      looked = looked + 1
      if looked == 32 then return nil end
    end
    -- `wide` said too much of it: else it would be looked at in vain again, before others of its kind.
    if ask.plain and ask.host == '' and ask.crew == '' then widen_host(host) end
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
  local seen = {}
  for _, uuid in ipairs(uuids) do
    local card = read_card(uuid)
    if card and want.count == 1 and not obstacle(ask, card, want.bytes) then
      return { card }
    elseif card and want.count > 1 and not seen[card.host] then -- beside those of its host that are free
      seen[card.host] = true
      local cards = lawful_of(card.host, ask, want.bytes, {})
      if #cards >= want.count then return { unpack(cards, 1, want.count) } end
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
