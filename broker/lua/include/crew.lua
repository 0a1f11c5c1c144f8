-- Crews: the workers that start the jobs of one queue. A request of a crew goes only to a host where one of its workers sits
-- idle, and takes that worker's seat: memory is lent where somebody is there to use it. A seat is a text, "HOST WORKER
-- QUEUE,QUEUE", and stands in the index of each of its queues; a worker that is silent for longer than it said is gone.
-- needs: keys ledger grant
-- gives: crews_of crew_hosts crew_works_at seat_at seated_hosts take_seat sit rise hand_to_worker

local crews, seats, own = {}, {}, nil -- each read once a script; `own`: the caller's seat, and what it was given

local function queues_in(seat)
  return string.gmatch(string.match(seat, '(%S+)$'), '[^,]+')
end

-- The queues whose workers live on a host, idle or not.
function crews_of(host)
  if crews[host] then return crews[host] end
  local found, mine, flat = {}, {}, call('HGETALL', CREW_OF .. '@' .. host) -- at most 64, see attend
  if own and string.match(own.seat, '^%S+') == host then
    for queue in queues_in(own.seat) do
      mine[queue] = true
      table.insert(found, queue)
    end
  end
  for i = 1, #flat, 2 do
    if tonumber(flat[i + 1]) >= now and not mine[flat[i]] then table.insert(found, flat[i]) end
  end
  crews[host] = found
  return found
end

-- Hosts where workers of a crew live, at most 64.
function crew_hosts(crew)
  return call('ZREVRANGEBYSCORE', CREW_OF .. crew, '+inf', int(now), 'LIMIT', 0, 64)
end

function crew_works_at(crew, host)
  for _, one in ipairs(crews_of(host)) do
    if one == crew then return true end
  end
  return false
end

-- The idle workers of a crew by host: of each host the one heard of last, of the 128 heard of last. The caller comes first.
local function seats_of(crew)
  if seats[crew] then return seats[crew] end
  local by_host = { hosts = {} }
  local function add(seat)
    local host = string.match(seat, '^%S+')
    if by_host[host] then return end
    by_host[host] = seat
    table.insert(by_host.hosts, host)
  end
  if own and not own.given then
    for queue in queues_in(own.seat) do
      if queue == crew then add(own.seat) end
    end
  end
  for _, seat in ipairs(call('ZREVRANGEBYSCORE', CREW_OF .. '#' .. crew, '+inf', int(now), 'LIMIT', 0, 128)) do add(seat) end
  seats[crew] = by_host
  return by_host
end

function seat_at(crew, host)
  return seats_of(crew)[host]
end

-- Hosts where a worker of the crew sits; the caller's first.
function seated_hosts(crew)
  return seats_of(crew).hosts
end

-- The caller can start a job in this very script, whether or not it sits and waits.
function take_seat(seat)
  own, seats, crews = { seat = seat }, {}, {}
  return own
end

-- The worker waits for a job from now on. Those who waited for a worker are looked at.
function sit(seat, until_ms)
  for queue in queues_in(seat) do
    call('ZADD', CREW_OF .. '#' .. queue, int(until_ms), seat)
    call('PEXPIRE', CREW_OF .. '#' .. queue, int(until_ms - now + 60000))
  end
end

-- It waits no more.
function rise(seat)
  for queue in queues_in(seat) do call('ZREM', CREW_OF .. '#' .. queue, seat) end
  seats = {}
end

-- Grants a request to an idle worker of the host where it was placed, and tells that worker. The push is a hint: what was
-- granted stands in the ledger until its claim is over.
function hand_to_worker(ask, placed, waited_ms)
  local seat, claim_ms = seat_at(ask.crew, placed.cards[1].host), setting_ms('claim_seconds', 10)
  local worker = string.match(seat, '^%S+ (%S+)')
  ask.worker = worker
  grant(ask, placed, 'granted', claim_ms, waited_ms)
  call('RPUSH', WAKE_OF .. '@' .. worker, ask.id)
  call('PEXPIRE', WAKE_OF .. '@' .. worker, claim_ms)
  if own and own.seat == seat then own.given = true end
  rise(seat)
end
