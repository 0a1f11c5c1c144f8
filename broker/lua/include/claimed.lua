-- Leases over memory that is in use already: adopted from a running process, or registered after the ledger lost them.
-- needs: keys ledger gpu
-- gives: unmanaged_of claim_unmanaged

-- What of a card's unmanaged bytes a process is counted with.
function unmanaged_of(uuid, pid)
  if pid == '' then return 0 end
  local processes = ' ' .. (call('HGET', GPU_OF .. uuid, 'processes') or '') .. ' '
  return tonumber(string.match(processes, ' ' .. pid .. ':(%d+) ') or 0)
end

-- From now on these bytes are a lease's, no stranger's: the card's budget grows by what was counted as unmanaged.
function claim_unmanaged(card, pid, bytes)
  local claimed = math.min(bytes, unmanaged_of(card.uuid, pid))
  if claimed == 0 then return end
  local before = tonumber(call('HGET', GPU_OF .. card.uuid, 'unmanaged_bytes') or 0)
  card.budget = math.min(card.capacity, card.budget + claimed)
  call('HSET', GPU_OF .. card.uuid, 'unmanaged_bytes', int(math.max(0, before - claimed)), 'budget_bytes', int(card.budget))
end
