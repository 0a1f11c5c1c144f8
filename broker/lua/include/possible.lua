-- Whether a request could ever be served, and what there is for it.
-- needs: keys ledger tenant host cards choose wide
-- gives: never_fits room_for

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

-- What a request selects that the pool has not got at this moment: 'host', 'gpu', 'selector' or nil.
local function not_there(ask)
  if ask.host ~= '' and call('SISMEMBER', HOSTS, ask.host) == 0 then return 'host' end
  if ask.gpu ~= '' and call('EXISTS', GPU_OF .. ask.gpu) == 0 then return 'gpu' end
  if ask.plain then return nil end
  if ask.gpu ~= '' then return not suits(ask, call('HGET', GPU_OF .. ask.gpu, 'class') or '') and 'selector' or nil end
  return #indexes_of(ask) == 0 and 'selector' or nil
end

-- Hosts on which the request might run; nil where they are too many to look at each (law 13).
local function its_hosts(ask)
  if ask.gpu ~= '' then return { call('HGET', GPU_OF .. ask.gpu, 'host') } end
  if ask.host ~= '' then return { ask.host } end
  return call('SCARD', HOSTS) <= 64 and call('SMEMBERS', HOSTS) or nil
end

-- What no host of these has at all: 'host_memory', 'cpus', 'cards' or nil; and whether one of them may yet tell of more.
-- Hosts that are not in the pool now say nothing.
local function beyond(ask, want, names)
  local why, untold
  for _, host in ipairs(names) do
    local h = host_of(host)
    local lacks = ask.host_memory > h.memory and 'host_memory' or ask.cpus > h.cpus and 'cpus'
      or want.count > 1 and #host_gpus(host) < want.count and 'cards'
    if not lacks then return nil end
    why = why or call('SISMEMBER', HOSTS, host) == 1 and lacks
    untold = untold or lacks ~= 'cards' and h.memory == 0 and h.cpus == 0
  end
  return why or nil, untold
end

-- Why none of a request's alternatives could ever be served, as the pool and the tenant's quota are: 'size' (larger than
-- any card it may use), 'quota', 'host_memory', 'cpus', 'cards', 'host', 'gpu' or 'selector'; nil if one could. Then the
-- largest capacity there is, 0 where it is not known; and whether what is missing may come by itself.
function never_fits(ask)
  local capacity, t, names = largest_capacity(ask) or 0, tenant_of(ask.tenant), its_hosts(ask)
  local missing = not_there(ask)
  if ask.gpu ~= '' and ask.host ~= '' and names[1] and names[1] ~= ask.host then return 'gpu', capacity, false end
  local why, may_come
  for _, want in ipairs(ask.wants) do
    local this = capacity > 0 and want.bytes > capacity and 'size'
      or t.quota > 0 and want.count * want.bytes > t.quota and 'quota'
    local untold
    if not this and not missing and names then this, untold = beyond(ask, want, names) end
    if not this then return missing, capacity, true end
    if not why or why == 'size' then why = this end -- what another size would not mend
    may_come = may_come or untold
  end
  return why, capacity, may_come
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
