-- The cards of one host, and `wide`, the index of hosts with room on several cards. An entry may say too much, since a grant
-- does not write it: who looks there asks the cards themselves. It says too little only of hosts in the set `stale`: whoever
-- wants several cards writes these anew first, and an agent does so for its host with every sample.
-- needs: keys ledger gpu
-- gives: host_gpus widen_host widen

-- The UUIDs of a host, at most 64.
function host_gpus(host)
  local uuids = {}
  for uuid in string.gmatch(call('HGET', HOST_OF .. host, 'gpus') or '', '%S+') do table.insert(uuids, uuid) end
  return uuids
end

-- Writes a host's entries: the k-th largest free bytes of its cards, for k from 2 on.
function widen_host(host)
  local uuids, frees = host_gpus(host), {}
  if #uuids > 1 then
    for _, free in ipairs(call('ZMSCORE', FREE, unpack(uuids))) do
      if free then table.insert(frees, tonumber(free)) end
    end
  end
  table.sort(frees, function(x, y) return x > y end)
  local scores, gone = {}, {}
  for k = 2, math.min(#uuids, WIDEST) do
    if frees[k] then
      table.insert(scores, int(k * SPAN + frees[k]))
      table.insert(scores, host .. '#' .. k)
    else
      table.insert(gone, host .. '#' .. k)
    end
  end
  if #scores > 0 then call('ZADD', WIDE, unpack(scores)) end
  if #gone > 0 then call('ZREM', WIDE, unpack(gone)) end
  call('SREM', STALE, host)
  widened[host] = nil
end

-- Before a search for several cards: the hosts of this script, and at most 64 of those that others left.
function widen()
  for _, host in ipairs(call('SRANDMEMBER', STALE, 64)) do widen_host(host) end
  local mine = {}
  for host in pairs(widened) do table.insert(mine, host) end
  for _, host in ipairs(mine) do widen_host(host) end
end
