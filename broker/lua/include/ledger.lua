-- The ledger's own state, read once: time, tokens, journal. Nothing is written before save() or journal().
-- needs: keys

local state = call('HMGET', LEDGER, 'token', 'seq', 'clock_ms', 'clock_offset_ms', 'grace_until', 'arrivals', 'soonest',
  'silence_ms', 'events_max', 'unserved')
local token, seq = tonumber(state[1] or 0), tonumber(state[2] or 0)
local clock_ms, clock_offset_ms = tonumber(state[3] or 0), tonumber(state[4] or 0)
local grace_until, arrivals = tonumber(state[5] or 0), tonumber(state[6] or 0)
local soonest = tonumber(state[7] or 0) -- no deadline in the ledger lies before it
local soonest_before = soonest
local offset_before, grace_before, arrivals_before = clock_offset_ms, grace_until, arrivals
local unserved = state[10] or '0'
local grew = unserved == '1' -- capacity grew: waiters are to be served
local born = token == 0

-- A number of the configuration, or its default where somebody wrote something else there by hand. Defaults are those of
-- broker/thresholds.py; a test holds the two together.
local function setting(name, default)
  local text = call('HGET', CONFIG, name)
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
  local longest = tonumber(state[8] or 10000)
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

-- law 5: tokens grow by one; a new ledger starts above every token of a lost one, since its epoch is the clock's
-- second and 2^23 tokens a second are never granted. 2025-01-01 + 2^30 s is in 2059.
local epoch
if born then
  epoch = math.floor(now / 1000) - 1735689600
  token = epoch * 8388608
end

-- One line of the journal, in the same atomic step as what it tells of.
local function write_event(kind, ...)
  seq = seq + 1
  call('XADD', EVENTS, 'MAXLEN', '~', state[9] or '20000', '*', 'seq', int(seq), 'kind', kind, 'at', int(now), ...)
end

-- What befell the ledger itself comes before what the script did.
local function journal(kind, ...)
  if epoch then
    write_event('epoch', 'epoch', int(epoch))
    call('HSET', LEDGER, 'epoch', int(epoch))
    epoch = nil
  end
  if stepped_ms ~= 0 then
    write_event('clock', 'step_ms', int(stepped_ms), 'grace_until', int(grace_until))
    stepped_ms = 0
  end
  if kind then write_event(kind, ...) end
end

-- Writes back what changed. Called once, at the end of every script that is not refused.
local function save()
  journal()
  call('HSET', LEDGER, 'token', int(token), 'seq', int(seq), 'clock_ms', int(now))
  if (grew and '1' or '0') ~= unserved then call('HSET', LEDGER, 'unserved', grew and '1' or '0') end
  if soonest ~= soonest_before then call('HSET', LEDGER, 'soonest', int(soonest)) end
  if offset_before ~= clock_offset_ms or grace_before ~= grace_until or arrivals_before ~= arrivals then
    call('HSET', LEDGER, 'clock_offset_ms', int(clock_offset_ms), 'grace_until', int(grace_until),
      'arrivals', int(arrivals))
  end
end
