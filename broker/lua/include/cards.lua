-- Cards that close, leave, or are kept for nobody any more.
-- needs: keys ledger gpu wide host
-- gives: unreserve leave_class forget_gpu close_gpu put_right

-- The end of a reservation: its cards are on offer again.
function unreserve(id, why)
  local uuids, host = unpack(call('HMGET', WAITER_OF .. id, 'reserved_gpus', 'reserved_host'))
  if not uuids then return end
  for uuid in string.gmatch(uuids, '[^,]+') do
    call('ZREM', RESERVED, uuid)
    local card = read_card(uuid)
    if card and card.reserved == id then
      call('HDEL', GPU_OF .. uuid, 'reserved_for', 'reserved_bytes')
      card.reserved = ''
      offer(card)
      grown[uuid] = card.host
    end
  end
  call('HDEL', WAITER_OF .. id, 'reserved_gpus', 'reserved_host')
  if host then keep_host_no_more(host, id) end
  turns = turns + 1
  journal('unreserved', 'id', id, 'gpu_uuids', uuids, 'why', why)
end

function leave_class(uuid, class)
  if class == '' then return end
  call('ZREM', FREE .. '@' .. class, uuid)
  if call('HINCRBY', CLASSES, class, -1) <= 0 then call('HDEL', CLASSES, class) end
end

-- A GPU whose agent left is forgotten with its last lease; not one that an operator drained, or the mark would be lost.
function forget_gpu(uuid, card)
  if card and card.reserved ~= '' then unreserve(card.reserved, 'its card left') end
  if card then leave_class(uuid, card.class) end
  if card and card.peers > 1 then widened[card.host] = true end
  call('ZREM', FREE, uuid)
  call('ZREM', FRESH, uuid)
  call('ZREM', CAPACITY, uuid)
  call('SREM', GPUS, uuid)
  call('DEL', GPU_OF .. uuid, HARDWARE_OF .. uuid)
end

-- No fresh word of this GPU: nothing is lent on it until there is.
function close_gpu(card, reason)
  local was = card.state
  card.state = 'UNAVAILABLE'
  if card.reserved ~= '' then
    unreserve(card.reserved, 'its card closed')
    card.reserved = ''
  end
  call('HSET', GPU_OF .. card.uuid, 'state', 'UNAVAILABLE', 'speed', '0.0', 'job_state', 'UNAVAILABLE',
    'job_speed', '0.0', 'reason', reason)
  call('ZREM', FRESH, card.uuid)
  offer(card)
  if was ~= 'UNAVAILABLE' then
    journal('state', 'gpu', card.uuid, 'host', card.host, 'from', was, 'to', 'UNAVAILABLE', 'reason', reason)
  end
end

-- A card that the index should not have named: put right.
function put_right(uuid, card)
  if not card then
    forget_gpu(uuid)
  elseif card.fresh_until < now and not settling then
    close_gpu(card, 'no sample since ' .. card.sampled_at)
  else
    offer(card)
  end
end
