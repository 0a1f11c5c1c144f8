-- Where a request may go now. The same predicate decides the grant and the words of `explain`.
-- needs: keys ledger gpu tenant host cards choose reserve share queue crew fit
-- gives: obstacle best_of place

-- Why a request may not take so many bytes of a card now; nil if it may.
function obstacle(ask, card, bytes)
  if settling then return 'settling' end
  if (ask.host ~= '' and ask.host ~= card.host) or (ask.gpu ~= '' and ask.gpu ~= card.uuid
        and not (ask.grows and string.find(',' .. ask.gpu .. ',', ',' .. card.uuid .. ',', 1, true)))
      or not (ask.plain or suits(ask, card.class)) then
    return 'selector'
  end
  if ask.crew ~= '' and not seat_at(ask.crew, card.host) then return 'seat' end
  if not lends(card.state) then return 'closed' end
  if card.drained then return 'drained' end
  if card.fresh_until < now then return 'silent' end
  if bytes > card.capacity then return 'small' end
  if card.reserved ~= '' and card.reserved ~= ask.id
      and tonumber(call('HGET', WAITER_OF .. card.reserved, 'priority') or -9999) >= tonumber(ask.priority) then
    return 'reserved'
  end
  if not (bytes >= 1 and card.leased + bytes <= card.budget) then
    return card.leased + bytes <= card.capacity and 'unmanaged' or 'leased'
  end
  return (ask.host_memory > 0 or ask.cpus > 0) and host_lacks(ask, card.host) or nil
end

-- Cards come in the order of what is left over: for the default the first that is cool and strands nothing is the best.
local function is_best(way, card, bytes)
  if way == 'cool' then return false end
  local left = card.budget - card.leased - bytes
  return way ~= '' or (card.job_state == 'OPTIMAL' and (left == 0 or left >= bytes))
end

-- One page of an index of free bytes, in the order that suits the way of placing.
local function page(index, ask, bytes, from, count)
  if ask.placement == 'spread' then return call('ZREVRANGEBYSCORE', index, '+inf', bytes, 'LIMIT', from, count) end
  return call('ZRANGEBYSCORE', index, bytes, '+inf', 'LIMIT', from, count)
end

-- The best card of one index: pages are read until one holds a lawful card, the first 64 cards and then 64 of the rest,
-- others each time (law 13). `not_these` were kept for others.
function best_of(index, ask, bytes, not_these)
  if (ask.host_memory > 0 or ask.cpus > 0) and (ask.placement == '' or ask.placement == 'pack') then
    return best_fit(index, ask, bytes, not_these)
  end
  local from, seen = 0, 0
  while seen < 128 do
    -- How many cards each way compares before it takes the best.
    local count = seen > 0 and 16 or ask.placement == '' and 4 or ask.placement == 'cool' and 64 or 1
    local uuids, best = page(index, ask, bytes, from, count), nil
    for _, uuid in ipairs(uuids) do
      local card = not not_these[uuid] and read_card(uuid)
      local why = card and obstacle(ask, card, bytes)
      if card and not why then
        if is_best(ask.placement, card, bytes) and not best then return card end
        if not best or better(ask.placement, bytes, card, best) then best = card end
      elseif not_these[uuid] or why == 'selector' or why == 'host_memory' or why == 'cpus' or why == 'settling'
          or why == 'seat' then
        from = from + 1 -- it stands there rightly
      else
        put_right(uuid, card)
      end
    end
    if best or #uuids < count then return best end
    if seen < 64 and seen + #uuids >= 64 then
      local rest = call('ZCOUNT', index, bytes, '+inf') - from
      if rest <= 0 then return nil end
      from = from + call('HINCRBY', LEDGER, 'looked', 64) % rest
    end
    seen = seen + #uuids
  end
  return nil
end

-- The cards for one alternative. Anything but one card of whatever class is looked for elsewhere.
local function cards_for(ask, want, not_these)
  if want.count == 1 and ask.plain and ask.gpu == '' and ask.host == '' and ask.crew == '' and not ask.grows then
    local card = best_of(FREE, ask, want.bytes, not_these)
    if card then return { card } end
    return queued > 0 and kept_cards(ask, want) or nil
  end
  return chosen_cards(ask, want, not_these)
end

-- Where a request goes now: { cards, bytes, choice }, or nil and why. Its alternatives are tried in their order.
function place(ask, score)
  if settling then return nil, 'settling' end
  local why, forbidden = '', 0
  for choice, want in ipairs(ask.wants) do
    if within_quota(tenant_of(ask.tenant), want.count * want.bytes) then
      local not_these = {}
      for _ = 1, 4 do
        local cards = cards_for(ask, want, not_these)
        if not cards then break end
        if queued == 0 or passes(ask, score, cards, not_these) then return { cards = cards, bytes = want.bytes, choice = choice } end
      end
    else
      hold_up(tenant_of(ask.tenant), group_of(ask))
      why, forbidden = 'quota', forbidden + 1
    end
  end
  if forbidden == #ask.wants and ask.reserved ~= '' then
    unreserve(ask.id, 'its tenant may not have so much now') -- nor shall it lie idle
    ask.reserved = ''
  end
  return nil, why
end
