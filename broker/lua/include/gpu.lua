-- One GPU's place in the indexes, and bytes lent and given back.
-- needs: keys, ledger

-- law 8: decided here, in the script that grants. THROTTLED cards lend; the jobs on them work slower.
local lends = { OPTIMAL = true, NORMAL = true, THROTTLED = true }

-- Offers the GPU's free bytes, or takes it out of the index of what is on offer.
local function index_gpu(uuid, open, free)
  if open and free > 0 then
    call('ZADD', FREE, free, uuid)
  else
    call('ZREM', FREE, uuid)
  end
end

-- A GPU whose agent left is forgotten with its last lease; not one that an operator drained, or the mark would be lost.
local function forget_gpu(uuid)
  call('ZREM', FREE, uuid)
  call('ZREM', FRESH, uuid)
  call('ZREM', CAPACITY, uuid)
  call('SREM', GPUS, uuid)
  call('DEL', GPU_OF .. uuid)
end

-- Gives a lease's bytes back to its GPU.
local function give_back(id, uuid, bytes)
  local gpu = call('HMGET', GPU_OF .. uuid, 'host', 'state', 'drained', 'leased_bytes', 'budget_bytes', 'left')
  -- Bytes are given back once, and only where they were taken: a card's hash that was lost and written anew owes nothing.
  if not gpu[1] or call('HDEL', GPU_OF .. uuid, 'lease:' .. id) == 0 then return end
  local leased, budget = tonumber(gpu[4]) - bytes, tonumber(gpu[5])
  if gpu[6] == '1' and leased == 0 and gpu[3] ~= '1' then return forget_gpu(uuid) end
  local free = math.max(0, budget - leased)
  call('HSET', GPU_OF .. uuid, 'leased_bytes', int(leased), 'free_bytes', int(free),
    'short_bytes', int(math.max(0, leased - budget)))
  index_gpu(uuid, lends[gpu[2]] and gpu[3] ~= '1', free)
  grew = true
end

-- No fresh word of this GPU: nothing is lent on it until there is.
local function close_gpu(uuid, host, was, reason)
  call('HSET', GPU_OF .. uuid, 'state', 'UNAVAILABLE', 'speed', '0.0', 'job_state', 'UNAVAILABLE', 'job_speed', '0.0',
    'reason', reason)
  call('ZREM', FRESH, uuid)
  call('ZREM', FREE, uuid)
  if was ~= 'UNAVAILABLE' then
    journal('state', 'gpu', uuid, 'host', host, 'from', was, 'to', 'UNAVAILABLE', 'reason', reason)
  end
end
