-- Cards for those who ask for memory and processors of the host as well: the one after which least is left that nobody
-- can use. A card whose host has no processors left to go with it lies idle, however free it is.
-- needs: keys ledger gpu host place cards
-- gives: best_fit

-- Cards looked at in a row, and hosts that have enough of their own: of so many the best is taken (law 13).
local CARDS_MOST, HOSTS_MOST = 24, 6

-- Heat in shares of a card, as the default placement weighs it.
local HEAT = { OPTIMAL = 0, NORMAL = 0.1, THROTTLED = 0.5 }

-- What is free on a host's cards together. Its cards are noted in `home`: they need not be asked whose they are.
local function room_of(h, name, home)
  local uuids, n, free = {}, 0, 0
  for uuid in string.gmatch(h.gpus, '%S+') do
    n = n + 1
    uuids[n], home[uuid] = uuid, name
  end
  local frees = n > 0 and call('ZMSCORE', FREE, unpack(uuids)) or uuids
  for i = 1, n do free = free + (tonumber(frees[i] or 0) or 0) end
  h.free, h.cards = free, n
end

-- The first of a page whose hosts have enough; and what a byte of a card takes of a host's processors and memory: as the
-- leases on these hosts do, and for a twentieth as the hosts themselves have it.
local function candidates_of(flat, ask, not_these)
  local found, home, looked, hosts_found = {}, {}, {}, 0
  local bytes, cpus, memory = 1, 0, 0
  for i = 1, #flat, 2 do
    local uuid = flat[i]
    local name, h = home[uuid], nil
    if not not_these[uuid] then
      local told = not name and call('HMGET', GPU_OF .. uuid, 'host', 'capacity_bytes')
      if told then name = told[1] end
      h = name and host_of(name)
      if h and looked[name] == nil then
        looked[name] = not host_lacks(ask, name) and {}
        if looked[name] then
          if hosts_found == HOSTS_MOST then break end
          hosts_found = hosts_found + 1
          room_of(h, name, home)
          h.capacity = math.max(1, tonumber(told[2]) or 1)
          bytes = bytes + 1.05 * h.cards * h.capacity - h.free
          cpus, memory = cpus + h.leased_cpus + 0.05 * h.cpus, memory + h.leased_memory + 0.05 * h.memory
        end
      end
      -- Of a host's cards with equally much free the first will do. One that has no hash is read as well, and put right.
      if not h or (looked[name] and not looked[name][flat[i + 1]]) then
        found[#found + 1] = { uuid = uuid, free = tonumber(flat[i + 1]), host = h, at = i }
        if h then looked[name][flat[i + 1]] = true end
      end
    end
  end
  return found, { cpus = cpus / bytes, memory = memory / bytes }
end

-- Free bytes of a host's cards for which it has no processors or no memory.
local function stranded(free, cpus, memory, rate)
  local most = free
  if rate.cpus > 0 then most = math.min(most, cpus / rate.cpus) end
  if rate.memory > 0 then most = math.min(most, memory / rate.memory) end
  return free - math.max(0, most)
end

-- How little a candidate is liked, in shares of a card: what is left over of it, counted twice where it is too little for
-- another such request, and what more is stranded on its host. The heat comes on top once the card is read.
local function weigh(candidate, ask, bytes, rate)
  local h, left = candidate.host, candidate.free - bytes
  if not h then return 0, 0 end
  local cpus, memory = h.cpus - h.leased_cpus, h.memory - h.leased_memory
  local more = stranded(h.free - bytes, cpus - ask.cpus, memory - ask.host_memory, rate)
    - stranded(h.free, cpus, memory, rate)
  if ask.placement == 'pack' then return left, more end -- the fullest card, whatever its host; of such the host decides
  return ((left >= bytes and left or 2 * left) + more) / h.capacity, 0
end

local function before(x, y)
  if x.first ~= y.first then return x.first < y.first end
  if x.second ~= y.second then return x.second < y.second end
  return x.at < y.at
end

-- Reasons for which a card stands in the index rightly all the same.
local RIGHTLY = { selector = true, host_memory = true, cpus = true, settling = true, seat = true }

-- The best lawful card of these. A card is read only if it could be better than the best so far: mostly one is.
local function best_among(found, ask, bytes)
  local best
  for _ = 1, #found do
    local candidate
    for i = 1, #found do
      local one = found[i]
      if not one.read and (not candidate or before(one, candidate)) then candidate = one end
    end
    if best and not before(candidate, best) then break end
    candidate.read = true
    local card = read_card(candidate.uuid)
    local why = card and obstacle(ask, card, bytes)
    if card and not why then
      candidate.card = card
      if ask.placement == '' then candidate.first = candidate.first + (HEAT[card.job_state] or 1) end
      if not best or before(candidate, best) then best = candidate end
    elseif not RIGHTLY[why] then
      put_right(candidate.uuid, card)
    end
  end
  return best and best.card
end

-- The best card of one index: of the first 24 with room or, if none of these will do, of 24 of the rest, others each time.
-- `not_these` were kept for others.
function best_fit(index, ask, bytes, not_these)
  local from = 0
  for turn = 1, 2 do
    local flat = call('ZRANGEBYSCORE', index, bytes, '+inf', 'WITHSCORES', 'LIMIT', from, CARDS_MOST)
    local found, rate = candidates_of(flat, ask, not_these)
    for i = 1, #found do found[i].first, found[i].second = weigh(found[i], ask, bytes, rate) end
    local card = best_among(found, ask, bytes)
    if card or turn == 2 or #flat < 2 * CARDS_MOST then return card end
    local rest = call('ZCOUNT', index, bytes, '+inf') - CARDS_MOST
    if rest <= 0 then return nil end
    from = CARDS_MOST + call('HINCRBY', LEDGER, 'looked', CARDS_MOST) % rest
  end
end
