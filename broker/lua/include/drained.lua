-- Marks of operators on cards and hosts. A card is drained while it, or its host, has the mark.
-- needs: keys ledger gpu cards host wide marks
-- gives: marked mark has_mark

-- What is marked, from the arguments: 'gpu' or 'host' and its name.
function marked()
  local kind = ARGV[1]
  if kind ~= 'gpu' and kind ~= 'host' then invalid('kind', kind, 'gpu or host') end
  return kind, name(kind == 'host' and 'host' or 'gpu', ARGV[2])
end

-- Sets or lifts one kind of mark on one card. The others stay.
local function mark_card(uuid, kind, on)
  local card = read_card(uuid)
  if not card then return end
  local by = with_mark(call('HGET', GPU_OF .. uuid, 'drained_by') or '', kind, on)
  card.drained = by ~= ''
  if card.drained and card.reserved ~= '' then
    unreserve(card.reserved, 'its card is drained')
    card.reserved = ''
  end
  call('HSET', GPU_OF .. uuid, 'drained', card.drained and '1' or '0', 'drained_by', by)
  if card.left and card.leased == 0 and not card.drained then return forget_gpu(uuid, card) end
  offer(card)
  if not card.drained then grown[uuid] = card.host end
end

-- Marks a card, or a host and all its cards. False if there is no such thing.
function mark(kind, what, on)
  if kind == 'gpu' then
    local host = call('HGET', GPU_OF .. what, 'host')
    if not host then return false end
    mark_card(what, 'gpu', on)
    journal(on and 'drained' or 'undrained', 'gpu', what, 'host', host, 'by', 'gpu')
    return true
  end
  if call('EXISTS', HOST_OF .. what) == 0 then return false end
  call('HSET', HOST_OF .. what, 'drained', on and '1' or '0')
  for _, uuid in ipairs(host_gpus(what)) do
    if call('HGET', GPU_OF .. uuid, 'host') == what then mark_card(uuid, 'host', on) end
  end
  local h = not on and call('SISMEMBER', HOSTS, what) == 0 and host_of(what)
  if h and h.leased_memory == 0 and h.leased_cpus == 0 then call('DEL', HOST_OF .. what) end -- its agent left
  journal(on and 'drained' or 'undrained', 'host', what, 'gpu', '', 'by', 'host')
  return true
end

-- Whether the mark is there already: then nothing is to be told twice.
function has_mark(kind, what)
  if kind == 'host' then return call('HGET', HOST_OF .. what, 'drained') == '1' end
  return string.find(call('HGET', GPU_OF .. what, 'drained_by') or '', 'gpu', 1, true) ~= nil
end
