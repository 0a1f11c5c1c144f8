-- law 7: small requests may pass a waiter that wants more than there is, bypass_max times; from then on the free bytes of
-- one card, or of one host's cards for a gang, gather for it alone, and all others go on elsewhere.
-- needs: keys ledger gpu tenant host cards queue place choose wide crew
-- gives: cards_to_keep keep reserve first_before passes

-- A card that could hold so many bytes for the request if its other leases ended.
local function could_hold(ask, card, bytes)
  return lends(card.state) and not card.drained and card.fresh_until >= now and card.budget >= bytes
    and card.reserved == '' and (ask.host == '' or ask.host == card.host) and suits(ask, card.class)
    and (ask.gpu == '' or string.find(',' .. ask.gpu .. ',', ',' .. card.uuid .. ',', 1, true) ~= nil)
    and (ask.crew == '' or crew_works_at(ask.crew, card.host))
end

-- UUIDs worth a look for a reservation: those with most free bytes below what is wanted, then any that are large enough.
local function likely_cards(ask, bytes)
  if ask.gpu ~= '' then return { string.match(ask.gpu, '^[^,]+') } end
  if ask.host ~= '' then return host_gpus(ask.host) end
  local uuids = {}
  if ask.crew ~= '' then
    for i, host in ipairs(crew_hosts(ask.crew)) do
      if i > 32 then break end
      for _, uuid in ipairs(host_gpus(host)) do table.insert(uuids, uuid) end
    end
    return uuids
  end
  for _, index in ipairs(indexes_of(ask)) do some_of(index, 0, '+inf', 16, true, uuids) end
  return some_of(CAPACITY, bytes, '+inf', 16, false, uuids)
end

-- Whether what the request wants of a host is gathering for another there.
local function host_is_kept(ask, host)
  return (ask.host_memory > 0 or ask.cpus > 0) and host_of(host).kept_for ~= ''
end

-- The card that needs the fewest bytes to come free, or for a gang the cards of one such host.
function cards_to_keep(ask, want)
  local function freer(x, y) return x.budget - x.leased > y.budget - y.leased end
  local best, seen = nil, {}
  for _, uuid in ipairs(likely_cards(ask, want.bytes)) do
    local first = read_card(uuid)
    local place_of = first and (want.count == 1 and uuid or first.host)
    if first and not seen[place_of] and not host_too_small(ask, first.host) and not host_is_kept(ask, first.host) then
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
  waiter.reserved, turns = table.concat(uuids, ','), turns + 1
  call('HSET', WAITER_OF .. waiter.id, 'reserved_gpus', waiter.reserved, 'reserved_host', cards[1].host)
  if waiter.host_memory > 0 or waiter.cpus > 0 then
    keep_host(cards[1].host, waiter.id, waiter.host_memory, waiter.cpus)
  end
  journal('reserved', 'id', waiter.id, 'gpu_uuids', waiter.reserved)
end

-- Keeps cards for a waiter. False if none could ever hold it: then nobody passes it in truth.
function reserve(waiter)
  for _, want in ipairs(waiter.wants) do
    local cards = within_quota(tenant_of(waiter.tenant), want.count * want.bytes) and cards_to_keep(waiter, want)
    if cards then
      keep(waiter, cards, want.bytes)
      return true
    end
  end
  return false
end

-- Whether a waiter could use the card, but for room on it: else it is not passed by whoever takes some of it.
local function could_use(waiter, card)
  if waiter.reserved ~= '' or not could_hold(waiter, card, 1) or host_too_small(waiter, card.host) then return false end
  for _, want in ipairs(waiter.wants) do
    if want.bytes <= card.budget and (want.count == 1 or #host_gpus(card.host) >= want.count)
        and within_quota(tenant_of(waiter.tenant), want.count * want.bytes) then
      return true
    end
  end
  return false
end

-- The lines of a group by the place of their first, and the waiters of a line: each read once while the queue stays as
-- it is. Of a group at most 256 lines, of a line at most 8 waiters.
local lines_read, waiters_read, read_at = {}, {}, -1
local function line_of(group, i)
  if read_at ~= turns then lines_read, waiters_read, read_at = {}, {}, turns end
  local lines = lines_read[group] or {}
  lines_read[group] = lines
  if not lines[i] and not lines.all and i <= 256 then
    local count = i == 1 and 8 or 62
    local flat = call('ZRANGE', LINES_OF .. group, i - 1, i + count - 2, 'WITHSCORES')
    for k = 1, #flat, 2 do
      table.insert(lines, { name = flat[k], score = tonumber(flat[k + 1]), size = tonumber(string.match(flat[k], '(%d+)$')) })
    end
    lines.all = #flat < 2 * count
  end
  return lines[i]
end

local function waiters_in(line)
  if waiters_read[line] then return waiters_read[line] end
  local flat, waiters = call('ZRANGE', LINE_OF .. line, 0, 7, 'WITHSCORES'), {}
  for i = 1, #flat, 2 do
    local waiter = read_waiter(flat[i])
    if waiter then
      waiter.at = tonumber(flat[i + 1])
      table.insert(waiters, waiter)
    end
  end
  waiters_read[line] = waiters
  return waiters
end

-- The first waiter who stands before a place in the queue, could use the card but for room, and has no card kept for it;
-- not one of `but`.
function first_before(ask, score, card, but)
  local best, largest = nil, card.budget > 0 and size_of_line(card.budget) or -1
  for _, group in ipairs(groups_of(card)) do
    local i, line = 1, line_of(group, 1)
    while line and line.score < (best and best.at or score) do
      for _, waiter in ipairs(line.size <= largest and waiters_in(line.name) or {}) do
        if waiter.at >= (best and best.at or score) then break end
        if waiter.id ~= ask.id and not (but and but[waiter.id]) and could_use(waiter, card) then best = waiter end
      end
      i = i + 1
      line = line_of(group, i)
    end
  end
  return best
end

-- Counts who is passed where the request takes some of this card. Where one would be passed once too often, cards are
-- kept for it if there are any; who can have none now holds nobody up, but he is counted, and those behind him too.
-- Returns the waiter for whom cards are kept now.
local tries, hopeless = 8, {} -- a script: to look for cards to keep reads many
local function count_passed(ask, score, card, bypass_max, passed)
  local but = {}
  for _ = 1, 8 do
    local waiter = first_before(ask, score, card, but)
    if not waiter then return nil end
    if waiter.bypassed >= bypass_max and tries > 0 and hopeless[waiter.id] ~= turns then
      tries, hopeless[waiter.id] = tries - 1, turns
      if reserve(waiter) then return waiter end
    end
    passed[waiter.id] = waiter
    if waiter.bypassed < bypass_max then return nil end
    but[waiter.id] = true
  end
  return nil
end

-- Whether a request may take bytes of these cards; whoever is passed by it counts it. Cards that are now kept for one
-- who would have been passed once too often are added to `not_these`.
function passes(ask, score, cards, not_these)
  if queued == 0 or (queued == 1 and ask.line) then return true end
  local bypass_max, passed = setting('bypass_max', 64), {}
  for _, card in ipairs(cards) do
    local waiter = card.reserved == '' and count_passed(ask, score, card, bypass_max, passed)
    if waiter then
      local kept
      for uuid in string.gmatch(waiter.reserved, '[^,]+') do
        for _, mine in ipairs(cards) do kept = kept or mine.uuid == uuid end
        not_these[uuid] = true
      end
      if kept or host_lacks(ask, card.host) then return false end -- what it wants of the host may gather for it now
    end
  end
  for id, waiter in pairs(passed) do
    waiter.bypassed = waiter.bypassed + 1
    call('HSET', WAITER_OF .. id, 'bypassed', int(waiter.bypassed))
  end
  return true
end
