-- Fair shares among tenants, and who is held back by a quota.
-- needs: keys ledger tenant
-- gives: share_used hold_up free_the_held_up

-- Who has used less of its share goes first.
function share_used(name)
  local t = tenant_of(name)
  return t.usage / t.weight
end

-- Notes that a group of waiters is held back by a tenant's quota; they are looked at when some of it comes back.
function hold_up(t, group)
  if #t.held_up > 2000 or string.find(' ' .. t.held_up .. ' ', ' ' .. group .. ' ', 1, true) then return end
  t.held_up = t.held_up == '' and group or t.held_up .. ' ' .. group
  call('HSET', TENANT_OF .. t.name, 'held_up', t.held_up)
end

function free_the_held_up(t)
  if t.held_up == '' then return end
  for group in string.gmatch(t.held_up, '%S+') do grown['=' .. group] = group end
  t.held_up = ''
  call('HDEL', TENANT_OF .. t.name, 'held_up')
end
