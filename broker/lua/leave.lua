#!lua flags=allow-oom
-- An agent says goodbye, or a person does for one that is gone for good: its GPUs lend nothing more, and each is forgotten
-- once no lease is on it.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 host  2 '1': only if its samples are not fresh any more
-- reply  left | unknown | fresh
-- errors BROKER_INVALID
-- cost   O(log n) for each of the host's GPUs, at most 64
-- include: keys check ledger turn gpu
-- needs: cards host marks

local host = name('host', ARGV[1])
if refusal then return refusal end
if call('SISMEMBER', HOSTS, host) == 0 then return 'unknown' end
if ARGV[2] == '1' and tonumber(call('HGET', HOST_OF .. host, 'fresh_until') or 0) >= now then return 'fresh' end
-- law 2: whose user may not write samples is refused here, before anything else is written.
call('PEXPIRE', METRICS_OF .. host, 86400000) -- its history may be looked at for a day
-- What the agent saw of a card's health, or of people at it, it sees no more.
local function lift_marks(card)
  local by = call('HGET', GPU_OF .. card.uuid, 'drained_by') or ''
  for _, mark in ipairs({ 'health', 'people' }) do
    local without = with_mark(by, mark, false)
    if without ~= by then
      by = without
      journal('undrained', 'gpu', card.uuid, 'host', host, 'by', mark, 'reason', 'its agent left')
    end
  end
  card.drained = by ~= ''
  call('HSET', GPU_OF .. card.uuid, 'drained', card.drained and '1' or '0', 'drained_by', by)
end

local uuids = host_gpus(host)
for _, uuid in ipairs(uuids) do
  local card = read_card(uuid)
  if card and card.host == host then
    close_gpu(card, 'agent left')
    lift_marks(card)
    if card.leased == 0 and not card.drained then
      forget_gpu(uuid, card)
    else
      call('HSET', GPU_OF .. uuid, 'left', '1')
    end
  end
end
call('SREM', HOSTS, host)
widened[host] = nil
call('SREM', STALE, host)
local wide = {}
for k = 2, WIDEST do table.insert(wide, host .. '#' .. k) end
call('ZREM', WIDE, unpack(wide))
local h, drained = host_of(host), call('HGET', HOST_OF .. host, 'drained') == '1'
if h.leased_memory == 0 and h.leased_cpus == 0 and not drained then
  call('DEL', HOST_OF .. host)
else -- an operator's mark, and what is lent of its memory, are remembered
  call('HDEL', HOST_OF .. host, 'state', 'memory_bytes', 'cpus_milli', 'fresh_until', 'life', 'sequence',
    drained and 'reason' or 'gpus')
end
journal('left', 'host', host)
reap()
serve()
save()
return 'left'
