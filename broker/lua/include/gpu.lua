-- One GPU: what is known of it, and where it stands in the indexes.
-- needs: keys ledger
-- shares: SPAN WIDEST
-- gives: lends read_card offer write_leased

WIDEST = 16 -- cards that one lease may span
SPAN = 8796093022208 -- 2^43: above all free bytes, so that `wide` holds one range of scores for each number of cards

-- law 8: decided here, in the script that grants. THROTTLED cards lend; the jobs on them work slower.
function lends(state) return state == 'OPTIMAL' or state == 'NORMAL' or state == 'THROTTLED' end

function read_card(uuid)
  local g = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'drained', 'fresh_until', 'leased_bytes', 'budget_bytes',
    'class', 'peers', 'capacity_bytes', 'job_state', 'left', 'sampled_at', 'reserved_for', 'memory_total_bytes')
  if not g[1] then return nil end
  return { uuid = uuid, host = g[1], state = g[2], drained = g[3] == '1', fresh_until = tonumber(g[4]),
    leased = tonumber(g[5]), budget = tonumber(g[6]), class = g[7] or '', peers = g[8] and tonumber(g[8]) or 1,
    capacity = tonumber(g[9]), job_state = g[10], left = g[11] == '1', sampled_at = g[12], reserved = g[13] or '',
    total = g[14] and g[14] ~= '' and g[14] or '0' }
end

-- Puts a card on offer, or among those kept for one waiter, or nowhere.
function offer(card)
  local uuid, free, open = card.uuid, math.max(0, card.budget - card.leased), lends(card.state) and not card.drained
  if open and free > 0 and card.reserved == '' then
    call('ZADD', FREE, free, uuid)
    if card.class ~= '' then call('ZADD', FREE .. '@' .. card.class, free, uuid) end
  else
    call('ZREM', FREE, uuid)
    if card.class ~= '' then call('ZREM', FREE .. '@' .. card.class, uuid) end
  end
  if card.reserved ~= '' then call('ZADD', RESERVED, free, uuid) end
  if card.peers > 1 and not card.takes then widened[card.host] = true end -- more may be free on several of them
end

-- Writes what is leased of a card, and offers the rest. Returns the former as text.
function write_leased(card, ...)
  local leased, free = int(card.leased), card.budget - card.leased
  call('HSET', GPU_OF .. card.uuid, 'leased_bytes', leased, 'free_bytes', free > 0 and int(free) or '0',
    'short_bytes', free < 0 and int(-free) or '0', ...)
  offer(card)
  return leased
end
