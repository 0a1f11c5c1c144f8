-- Copies of calls that come late: what was answered is known.
-- needs: keys ledger
-- gives: forgo heard hear

-- A call that asked for a lease of this name has its answer, and got none: should a copy of it come late, it is known.
-- What is remembered of a lease that ended under the name stays.
function forgo(id, nonce)
  if nonce == '' then return end
  local ended, how, its = string.match(call('GET', ENDED_OF .. id) or '', '^(%d+) (%a+) (%S*)')
  call('SET', ENDED_OF .. id, (ended or '0') .. ' ' .. (how or 'refused') .. ' ' .. (its or '') .. ' ' .. nonce, 'PX', 60000)
end

-- Whether a call that changes a lease had its answer before: its nonce is among those of the last eight such calls.
function heard(id, nonce)
  local calls = nonce ~= '' and call('HGET', LEASE_OF .. id, 'calls')
  return calls and string.find(' ' .. calls .. ' ', ' ' .. nonce .. ' ', 1, true) ~= nil
end

function hear(id, nonce)
  if nonce == '' then return end
  local kept = { nonce }
  for one in string.gmatch(call('HGET', LEASE_OF .. id, 'calls') or '', '%S+') do
    if #kept < 8 then table.insert(kept, one) end
  end
  call('HSET', LEASE_OF .. id, 'calls', table.concat(kept, ' '))
end
