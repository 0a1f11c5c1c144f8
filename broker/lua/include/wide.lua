-- The cards of one host, and the index of hosts with room on several.
-- needs: keys ledger gpu
-- gives: host_gpus widen

-- The UUIDs of a host, at most 64.
function host_gpus(host)
  local uuids = {}
  for uuid in string.gmatch(call('HGET', HOST_OF .. host, 'gpus') or '', '%S+') do table.insert(uuids, uuid) end
  return uuids
end

-- For each host whose offers changed: the k-th largest free bytes of its cards, for k from 2 on.
function widen()
  for host in pairs(widened) do
    local uuids, frees = host_gpus(host), {}
    if #uuids > 0 then
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
  end
  widened = {}
end
