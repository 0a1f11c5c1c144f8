-- Leases over memory that is in use already: adopted from a running process, or registered after the ledger lost them.
-- needs: keys ledger gpu
-- gives: unmanaged_of claim_unmanaged

-- What of a card's unmanaged bytes a process is counted with.
function unmanaged_of(uuid, pid)
  if pid == '' then return 0 end
  local processes = ' ' .. (call('HGET', GPU_OF .. uuid, 'processes') or '') .. ' '
  return tonumber(string.match(processes, ' ' .. pid .. ':(%d+) ') or 0)
end

-- From now on these bytes are a lease's, no stranger's: the card's budget grows by what was counted as unmanaged, and they
-- cannot be claimed again.
function claim_unmanaged(card, pid, bytes)
  local seen = unmanaged_of(card.uuid, pid)
  local claimed = math.min(bytes, seen)
  if claimed == 0 then return end
  local known = call('HMGET', GPU_OF .. card.uuid, 'unmanaged_bytes', 'processes')
  local before = tonumber(known[1] or '') or 0 -- '' while it is unknown
  local left = seen > claimed and ' ' .. pid .. ':' .. int(seen - claimed) .. ' ' or ' '
  local processes = string.gsub(' ' .. known[2] .. ' ', ' ' .. pid .. ':%d+ ', left)
  card.budget = math.min(card.capacity, card.budget + claimed)
  call('HSET', GPU_OF .. card.uuid, 'unmanaged_bytes', int(math.max(0, before - claimed)), 'budget_bytes', int(card.budget),
    'processes', string.match(processes, '^%s*(.-)%s*$'))
end
