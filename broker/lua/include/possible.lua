-- Whether a request could ever be served, and what there is for it.
-- needs: keys ledger tenant host cards choose wide
-- gives: could_ever room_for

-- The largest budget of the cards that a request may use, by number of cards and what their hosts have at all.
local function largest_capacity(ask)
  if ask.gpu == '' and ask.host == '' and ask.plain then
    return tonumber(call('ZREVRANGE', CAPACITY, 0, 0, 'WITHSCORES')[2] or 0)
  end
  local capacity, uuids = 0, {}
  if ask.gpu ~= '' then
    uuids = { ask.gpu }
  elseif ask.host ~= '' then
    uuids = host_gpus(ask.host)
  else
    return nil -- by class: not known without reading every card
  end
  for _, uuid in ipairs(uuids) do -- at most 64
    capacity = math.max(capacity, tonumber(call('ZSCORE', CAPACITY, uuid) or 0))
  end
  return capacity
end

-- Whether any of a request's alternatives could ever be served: by the cards that are known, and the tenant's quota.
-- Returns that, the largest capacity there is (0 where it is not known), and what stands in the way.
function could_ever(ask)
  local capacity, t, why = largest_capacity(ask), tenant_of(ask.tenant), ''
  if ask.gpu ~= '' and ask.host ~= '' then
    local host = call('HGET', GPU_OF .. ask.gpu, 'host')
    if host and host ~= ask.host then return false, capacity, '' end
  end
  if ask.host ~= '' and capacity > 0 and host_too_small(ask, ask.host) then return false, capacity, 'host' end
  for _, want in ipairs(ask.wants) do
    local small = capacity and capacity > 0 and want.bytes > capacity
    if not small and ask.host ~= '' and want.count > 1 and capacity and capacity > 0 then
      small = #host_gpus(ask.host) < want.count
    end
    local quota = t.quota > 0 and want.count * want.bytes > t.quota
    if not small and not quota then return true, capacity or 0, '' end
    if not small then why = 'quota' end
  end
  return false, capacity or 0, why
end

-- The most free bytes on one card that the request may use, and how many such cards are on offer.
function room_for(ask)
  if ask.gpu == '' and ask.host == '' then
    local free, open = 0, 0
    for _, index in ipairs(indexes_of(ask)) do
      free = math.max(free, tonumber(call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2] or 0))
      open = open + call('ZCARD', index)
    end
    return free, open
  end
  local free, open = 0, 0
  for _, uuid in ipairs(ask.gpu ~= '' and { ask.gpu } or host_gpus(ask.host)) do -- at most 64
    local offered = call('ZSCORE', FREE, uuid)
    free = math.max(free, tonumber(offered or 0))
    open = open + (offered and 1 or 0)
  end
  return free, open
end
