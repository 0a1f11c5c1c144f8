-- The ledger's own state, read once: time, tokens, journal. Nothing is written before save() or journal().
-- needs: keys

local state = call('HMGET', LEDGER, 'token', 'seq', 'clock_ms', 'clock_offset_ms', 'grace_until', 'arrivals', 'soonest',
  'silence_ms', 'events_max', 'unserved', 'settling_until', 'queued', 'usage_seconds')
-- Most of a ledger's fields are seldom there: `tonumber` is called for those that are.
local token, seq = state[1] and tonumber(state[1]) or 0, state[2] and tonumber(state[2]) or 0
local clock_ms, clock_offset_ms = state[3] and tonumber(state[3]) or 0, state[4] and tonumber(state[4]) or 0
local grace_until, arrivals = state[5] and tonumber(state[5]) or 0, state[6] and tonumber(state[6]) or 0
local soonest = state[7] and tonumber(state[7]) or 0 -- no deadline in the ledger lies before it
local settling_until, queued = state[11] and tonumber(state[11]) or 0, state[12] and tonumber(state[12]) or 0
local soonest_before, offset_before, grace_before = soonest, clock_offset_ms, grace_until
local arrivals_before, settling_before, queued_before = arrivals, settling_until, queued
local born = token == 0

-- Where capacity grew: waiters are to be served from it. By UUID its host; or '=' and a group of waiters, since what
-- held them back, a quota for instance, is gone; or '*' and how far a walk through the whole queue has come. What one
-- script leaves unserved the next one finds.
local grown, unserved = {}, state[10] or ''
if unserved ~= '' then
  for uuid, host in string.gmatch(unserved, '(%S-)=(%S+)') do grown[uuid == '' and '=' .. host or uuid] = host end
end

local turns = 0 -- grows when somebody joins or leaves the queue, or cards are kept for one or no more
local widened = {} -- hosts of several cards on which more may be free than `wide` says

-- A number of the configuration, or its default where somebody wrote something else there by hand. Defaults are those of
-- broker/thresholds.py; a test holds the two together.
local function setting(name, default)
  local text = call('HGET', ROOT .. 'config', name)
  return text and #text <= 16 and string.match(text, '^%d+%.?%d*$') and tonumber(text) or default
end

-- Seconds of the configuration in whole milliseconds: commands such as PEXPIRE take no fractions.
local function setting_ms(name, default)
  return math.floor(setting(name, default) * 1000)
end

-- Notes a new deadline.
local function due(at)
  if at < soonest then soonest = at end
  return at
end

-- law 6: one reading of Redis's clock, kept from running backwards. Agents beat every monitor_interval, so a longer
-- silence is a stepped clock or a pool where nothing could be granted anyway: expiry then pauses for a grace period,
-- in which living holders renew.
local stepped_ms = 0
local now
do
  local time = call('TIME')
  local raw = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  now = raw + clock_offset_ms
  local longest = state[8] and tonumber(state[8]) or 10000
  if now < clock_ms then
    if clock_ms - now > 1000 then stepped_ms = now - clock_ms end
    clock_offset_ms = clock_ms - raw
    now = clock_ms
  elseif clock_ms > 0 and now - clock_ms > longest then
    stepped_ms = now - clock_ms
    local absorbed = math.min(clock_offset_ms, stepped_ms)
    clock_offset_ms, now = clock_offset_ms - absorbed, now - absorbed
    -- One grace in a while: a pool in which scripts are seldom must not put expiry off for ever.
    local grace_ms = setting_ms('grace_seconds', 15)
    if now - clock_ms > longest and now - grace_until > 4 * grace_ms then grace_until = now + grace_ms end
  elseif clock_offset_ms > 0 then
    -- A hundredth slower than Redis's clock, a millisecond at least, until the two agree again.
    local absorbed = now - clock_ms < 2 and 0 or math.min(clock_offset_ms, math.ceil((now - clock_ms) / 100))
    clock_offset_ms, now = clock_offset_ms - absorbed, now - absorbed
  end
end

-- law 5: tokens grow by one; a new ledger, or one that another primary took over, goes on above every token of before,
-- since its epoch is the clock's second and 2^23 tokens a second are never granted. 2025-01-01 + 2^30 s is in 2059.
local epoch -- of this script's making
local function new_epoch()
  epoch = math.max(math.floor(now / 1000) - 1735689600, math.floor(token / 8388608) + 1)
  token = epoch * 8388608
end
if born then new_epoch() end

local settling = now < settling_until -- nothing is lent

-- One line of the journal, in the same atomic step as what it tells of.
local function write_event(kind, ...)
  seq = seq + 1
  call('XADD', EVENTS, 'MAXLEN', '~', state[9] or '20000', '*', 'seq', int(seq), 'kind', kind, 'at', int(now), ...)
end

-- What befell the ledger itself comes before what the script did.
local function journal(kind, ...)
  if epoch then
    write_event('epoch', 'epoch', int(epoch), 'why', born and 'born' or 'primary',
      'settling_until', int(settling_until))
    call('HSET', LEDGER, 'epoch', int(epoch))
    epoch = nil
  end
  if stepped_ms ~= 0 then
    write_event('clock', 'step_ms', int(stepped_ms), 'grace_until', int(grace_until))
    stepped_ms = 0
  end
  if kind then write_event(kind, ...) end
end

-- law 11: holders register again what they hold before anything new is granted; nothing ends meanwhile.
local function settle()
  settling_until = math.max(settling_until, now + setting_ms('grace_seconds', 15))
  grace_until, settling = math.max(grace_until, settling_until), true
  journal('settling', 'settling_until', int(settling_until))
end

-- Writes back what changed. Called once, at the end of every script that is not refused.
local function save()
  journal()
  for host in pairs(widened) do call('SADD', STALE, host) end
  local left, count = '', 0
  for uuid, host in pairs(grown) do
    count = count + 1
    if count > 64 then -- too much to name: the whole queue is walked through
      left = '*=-inf '
      break
    end
    left = left .. (uuid == '=' .. host and '' or uuid) .. '=' .. host .. ' '
  end
  call('HSET', LEDGER, 'token', int(token), 'seq', int(seq), 'clock_ms', int(now))
  if left ~= unserved then call('HSET', LEDGER, 'unserved', left) end
  if soonest ~= soonest_before then call('HSET', LEDGER, 'soonest', int(soonest)) end
  if queued ~= queued_before or arrivals ~= arrivals_before then
    call('HSET', LEDGER, 'queued', int(queued), 'arrivals', int(arrivals))
  end
  if offset_before ~= clock_offset_ms or grace_before ~= grace_until or settling_before ~= settling_until then
    call('HSET', LEDGER, 'clock_offset_ms', int(clock_offset_ms), 'grace_until', int(grace_until),
      'settling_until', int(settling_until))
  end
end
