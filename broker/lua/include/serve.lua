-- law 7: hands grown capacity to waiters. Priority first, then the tenant that has used least of its share, then arrival.
-- At most 32 waiters are tried and 16 served in a script (law 13); the next script goes on from what is left. Where the
-- bound was met and nobody served, whom it can serve may stand further behind: then the scripts that follow walk through
-- the whole queue, each a part of it.
-- needs: keys ledger gpu tenant share queue place reserve grant lease change choose crew
-- gives: serve_waiters

local TRIED_MOST, SERVED_MOST = 32, 16

-- The waiter's own thing: a lease, or growth of the one it holds. The push is a hint: what was granted stands in the
-- ledger, and its waiter finds it at its next beat too.
local function hand_over(ask, placed)
  local claim_ms = setting_ms('claim_seconds', 10)
  remove_waiter(ask.id, 'served')
  if ask.crew ~= '' then return hand_to_worker(ask, placed, now - ask.since) end
  if ask.grows then
    local lease = read_lease(ask.grows)
    if lease then resize_lease(lease, placed.cards, lease.bytes + placed.bytes, ask.nonce) end
  else
    grant(ask, placed, 'granted', claim_ms, now - ask.since)
  end
  call('RPUSH', WAKE_OF .. ask.id, int(token))
  call('PEXPIRE', WAKE_OF .. ask.id, claim_ms)
end

-- Where a waiter may go now. Requests alike are refused alike, until something was handed over or kept.
local refused_at = {}
local function try(ask, score)
  local alike = not ask.grows and ask.reserved == ''
  if alike and refused_at[ask.request] == turns then return nil end
  local placed = place(ask, score)
  if alike and not placed then refused_at[ask.request] = turns end
  return placed
end

-- The groups of waiters to look at, for what grew.
local function groups_to_serve(cards)
  local groups, seen = {}, {}
  local function add(group)
    if not seen[group] then
      seen[group] = true
      table.insert(groups, group)
    end
  end
  for uuid, host in pairs(cards) do
    local card = string.sub(uuid, 1, 1) ~= '=' and read_card(uuid)
    if card then
      for _, group in ipairs(groups_of(card)) do add(group) end
    elseif string.sub(uuid, 1, 1) == '=' then
      add(host)
      add('any')
    end
  end
  return groups
end

-- The lines of these groups whose size may fit, and whose tenants may have so much: of the first 64 of each group, and
-- 128 in all (law 13). Also whether there are more.
local LINES_MOST = 128
local function lines_of(groups, largest)
  local lines, more = {}, false
  for _, group in ipairs(groups) do
    local flat = call('ZRANGE', LINES_OF .. group, 0, 63, 'WITHSCORES')
    more = more or #flat == 128
    for i = 1, #flat, 2 do
      local tenant, size = string.match(flat[i], '|([^|]*)|(%d+)$')
      if tonumber(size) > largest then
        -- nobody of this line fits
      elseif not within_quota(tenant_of(tenant), least_of_line(tonumber(size))) then
        hold_up(tenant_of(tenant), group)
      else
        table.insert(lines, { name = flat[i], score = tonumber(flat[i + 1]), tenant = tenant, size = tonumber(size), at = 0 })
        if #lines == LINES_MOST then return lines, true end
      end
    end
  end
  return lines, more
end

-- Whether the first of line x goes before the first of line y.
local function goes_before(x, y, fair)
  local px, py = math.floor(x.score / PRIORITY), math.floor(y.score / PRIORITY)
  if px ~= py then return px < py end
  if fair and x.tenant ~= y.tenant then
    local ux, uy = share_used(x.tenant), share_used(y.tenant)
    if ux ~= uy then return ux < uy end
  end
  return x.score < y.score
end

local function next_line(lines, fair, largest)
  local best
  for _, line in ipairs(lines) do
    if not line.done and line.size <= largest and (not best or goes_before(line, best, fair)) then best = line end
  end
  return best
end

-- The waiter at `line.at` in its line, whose score becomes the line's.
local function look(line)
  local flat = call('ZRANGE', LINE_OF .. line.name, line.at, line.at, 'WITHSCORES')
  if not flat[1] then
    line.done = true
    return nil
  end
  line.score = tonumber(flat[2])
  local ask = read_waiter(flat[1])
  if not ask then
    call('ZREM', LINE_OF .. line.name, flat[1])
    remove_waiter(flat[1], 'its hash was lost')
  end
  return ask
end

-- Those for whom grown cards are kept come first: nobody else can use these, but for a higher priority, which is served
-- in its order.
local function serve_kept(cards)
  local served = 0
  for uuid in pairs(cards) do
    local id = string.sub(uuid, 1, 1) ~= '=' and call('HGET', GPU_OF .. uuid, 'reserved_for')
    local ask = id and id ~= '' and read_waiter(id)
    local score = ask and tonumber(call('ZSCORE', WAITERS, id) or 0)
    local first = ask and tonumber(call('ZRANGE', WAITERS, 0, 0, 'WITHSCORES')[2] or 0)
    local placed = ask and math.floor(first / PRIORITY) == math.floor(score / PRIORITY) and place(ask, score)
    if placed then
      hand_over(ask, placed)
      served = served + 1
      if served == SERVED_MOST then break end
    end
  end
  return served
end

-- The most free bytes of any card, on offer or kept for one.
local function most_free()
  local free, kept = call('ZREVRANGE', FREE, 0, 0, 'WITHSCORES')[2], call('ZREVRANGE', RESERVED, 0, 0, 'WITHSCORES')[2]
  return math.max(tonumber(free or 0), tonumber(kept or 0))
end

-- From the next script on; if there is such a walk already, another one after it.
local function walk_through()
  grown[grown['*'] and '+' or '*'] = '-inf'
end

-- A part of the walk through the whole queue, in its order: 32 waiters from where the last script came to.
local function walk(budget, most)
  local from = grown['*']
  local flat = call('ZRANGEBYSCORE', WAITERS, from, '+inf', 'WITHSCORES', 'LIMIT', 0, TRIED_MOST)
  grown['*'] = #flat == 2 * TRIED_MOST and from or nil
  for i = 1, #flat, 2 do
    if grown['*'] then grown['*'] = '(' .. format('%.0f', flat[i + 1]) end
    local ask = read_waiter(flat[i])
    local placed = ask and least_bytes(ask) <= most and try(ask, tonumber(flat[i + 1]))
    if placed then
      hand_over(ask, placed)
      budget.served = budget.served + 1
      if budget.served >= SERVED_MOST then
        grown['*'] = '(' .. format('%.0f', flat[i + 1])
        return
      end
    end
  end
  if not grown['*'] and grown['+'] then grown['*'], grown['+'] = '-inf', nil end
end

-- Serves from what grew. False if it stopped at a bound, with something served: then there is more to do.
local function serve_from(cards, budget)
  budget.served = budget.served + serve_kept(cards)
  local most, fair, plausible = most_free(), false, false
  local largest = most > 0 and size_of_line(most) or -1
  local lines, more = lines_of(groups_to_serve(cards), largest)
  for _, line in ipairs(lines) do fair = fair or line.tenant ~= lines[1].tenant end
  while budget.tried < TRIED_MOST and budget.served < SERVED_MOST do
    local line = next_line(lines, fair, largest)
    if not line then
      if more then walk_through() end
      return true
    end
    local chosen = line.score
    local ask = look(line)
    if ask and line.score ~= chosen then
      ask = nil -- not the one for whom the line was chosen: its own turn comes
    elseif ask then
      budget.tried = budget.tried + 1
      local fits = least_bytes(ask) <= most
      local placed = fits and try(ask, line.score)
      line.fits = line.fits or fits
      plausible = plausible or fits
      if placed then
        hand_over(ask, placed)
        budget.served, line.at, most = budget.served + 1, 0, most_free()
        largest = most > 0 and size_of_line(most) or -1
      else
        line.at = line.at + 1 -- others of about its size may want less, or stand in another way
        if line.at == (line.fits and 8 or 4) then line.done, more = true, more or line.fits end
      end
    end
  end
  if budget.served > 0 then return false end
  if plausible then walk_through() end
  return true
end

function serve_waiters()
  local budget = { tried = 0, served = 0 }
  for _ = 1, 2 do -- the second time for cards that were kept for one who found room elsewhere
    if not next(grown) or settling then return end
    if queued == 0 then
      grown = {}
      return
    end
    if grown['*'] then walk(budget, most_free()) end
    local cards = grown
    grown = { ['*'] = cards['*'], ['+'] = cards['+'] }
    cards['*'], cards['+'] = nil, nil
    if not next(cards) then return end
    if not serve_from(cards, budget) then
      for uuid, host in pairs(cards) do grown[uuid] = host end
      return
    end
  end
end
