-- How large cards are, for a holder who reckons in fractions of them.
-- needs: keys
-- gives: totals_of

-- The whole memory of each of these cards, joined by commas; 0 where its agent cannot read it now.
function totals_of(uuids)
  local totals = {}
  for uuid in string.gmatch(uuids, '[^,]+') do
    local total = call('HGET', GPU_OF .. uuid, 'memory_total_bytes')
    table.insert(totals, total and total ~= '' and total or '0')
  end
  return table.concat(totals, ',')
end
