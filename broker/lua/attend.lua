#!lua
-- A worker of some queues shows itself, and is handed the first request of these that can start on its host. Idle, it
-- takes a seat: a request that can start there later is pushed to it (list wake:@WORKER, with the lease's id). What it was
-- handed is told again until it claims it.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 worker  2 host  3 its queues, 1 to 16 joined by commas, in the same order each time  4 what it does: sit (it
--        waits), look (it is between two jobs), away (it is at work)  5 ms for which a seat stands without another word
--        6 ms for which the worker counts as living without another word
-- reply  given id      (a lease that it has to claim, see claim.lua)
--        none
-- errors BROKER_INVALID
-- cost   O(log n) for each of its queues, plus the waiters served
-- include: keys check ledger turn
-- needs: crew queue

local DOES = { sit = true, look = true, away = true }
local worker, host = name('worker', ARGV[1]), name('host', ARGV[2])
local queues = {}
for queue in string.gmatch((ARGV[3] or '') .. ',', '([^,]*),') do table.insert(queues, name('queue', queue)) end
if #queues > 16 then invalid('queues', ARGV[3], 'at most 16') end
if not DOES[ARGV[4] or ''] then invalid('does', ARGV[4], 'sit, look or away') end
local seat_ms, life_ms = whole('seat_ms', ARGV[5], 100, 86400000), whole('life_ms', ARGV[6], 1000, 86400000)
if refusal then return refusal end

local seat = host .. ' ' .. worker .. ' ' .. ARGV[3]

-- Entries of workers that are gone, a few a script.
local function forget(index)
  local gone = call('ZRANGEBYSCORE', index, '-inf', '(' .. int(now), 'LIMIT', 0, 16)
  if #gone > 0 then call('ZREM', index, unpack(gone)) end
end

local lives = CREW_OF .. '@' .. host
local known = call('HMGET', lives, unpack(queues))

-- Written when half of it is over: a worker shows itself more often than that.
local function show(queue)
  forget(CREW_OF .. queue)
  forget(CREW_OF .. '#' .. queue)
  if call('HLEN', lives) >= 64 then
    local flat = call('HGETALL', lives)
    for i = 1, #flat, 2 do
      if tonumber(flat[i + 1]) < now then call('HDEL', lives, flat[i]) end
    end
  end
  if call('HEXISTS', lives, queue) == 0 and call('HLEN', lives) >= 64 then return end
  call('HSET', lives, queue, int(now + life_ms))
  call('PEXPIRE', lives, life_ms * 2)
  call('ZADD', CREW_OF .. queue, int(now + life_ms), host)
  call('PEXPIRE', CREW_OF .. queue, life_ms * 2)
end
for i, queue in ipairs(queues) do
  if tonumber(known[i] or 0) < now + life_ms / 2 then show(queue) end
end

-- What was handed to it and not heard comes first.
local given = call('LINDEX', WAKE_OF .. '@' .. worker, 0)
local own
if given or ARGV[4] == 'away' then
  rise(seat)
else
  local sat = ARGV[4] == 'sit' and tonumber(call('ZSCORE', CREW_OF .. '#' .. queues[1], seat) or 0) >= now
  if ARGV[4] == 'sit' then sit(seat, now + seat_ms) end
  own = take_seat(seat)
  if not sat and queued > 0 then
    for _, queue in ipairs(queues) do grown['=crew:' .. queue] = 'crew:' .. queue end
  end
end
reap()
serve()
save()
given = given or own and own.given and call('LINDEX', WAKE_OF .. '@' .. worker, 0)
return given and { 'given', given } or { 'none' }
