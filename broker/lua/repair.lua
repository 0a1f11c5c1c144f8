#!lua
-- Recomputes what the ledger keeps about one GPU from the leases on it: sums, indexes, leases whose hash is lost.
--
-- KEYS   the pool's keys
-- ARGV   1 gpu uuid
-- reply  how many things were mended
-- errors BROKER_INVALID
-- cost   O(leases on the GPU): for a person's repair, not for every day
-- include: keys check ledger turn
-- needs: gpu lease cards

local uuid = name('gpu', ARGV[1])
if refusal then return refusal end
local card, mended = read_card(uuid), 0
if not card then
  if call('SREM', GPUS, uuid) + call('ZREM', FREE, uuid) + call('ZREM', RESERVED, uuid) + call('ZREM', CAPACITY, uuid)
      + call('ZREM', FRESH, uuid) > 0 then
    mended = 1
  end
else
  local leased = 0
  for _, field in ipairs(call('HKEYS', GPU_OF .. uuid)) do
    local id = string.match(field, '^lease:(.+)$')
    local lease = id and read_lease(id)
    if lease and string.find(',' .. lease.gpus .. ',', ',' .. uuid .. ',', 1, true) then
      leased = leased + lease.bytes
      if tonumber(call('HGET', GPU_OF .. uuid, field)) ~= lease.bytes then
        call('HSET', GPU_OF .. uuid, field, int(lease.bytes))
        mended = mended + 1
      end
      if not call('ZSCORE', LEASES, id) then
        call('ZADD', LEASES, due(lease.expires_at), id)
        mended = mended + 1
      end
    elseif id then
      call('HDEL', GPU_OF .. uuid, field)
      mended = mended + 1
    end
  end
  local before = call('HMGET', GPU_OF .. uuid, 'leased_bytes', 'free_bytes', 'short_bytes')
  local offered = call('ZSCORE', FREE, uuid)
  if card.reserved ~= '' and call('EXISTS', WAITER_OF .. card.reserved) == 0 then
    call('HDEL', GPU_OF .. uuid, 'reserved_for', 'reserved_bytes')
    call('ZREM', RESERVED, uuid)
    card.reserved = ''
    mended = mended + 1
  end
  card.leased = leased
  write_leased(card)
  local after = call('HMGET', GPU_OF .. uuid, 'leased_bytes', 'free_bytes', 'short_bytes')
  for i = 1, 3 do
    if before[i] ~= after[i] then mended = mended + 1 end
  end
  if offered ~= call('ZSCORE', FREE, uuid) then mended = mended + 1 end
  call('ZADD', CAPACITY, card.capacity, uuid)
  call('SADD', GPUS, uuid)
  grown[uuid] = card.host
end
if mended > 0 then journal('repaired', 'gpu', uuid, 'mended', int(mended)) end
reap()
serve()
save()
return int(mended)
