#!lua
-- Stores a pool's configuration if nobody changed it since the caller read it.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 version the caller read ('0' if none); then name and value in turn: the whole of what differs from defaults
-- reply  the new version | changed (read again, and try again)
-- errors BROKER_INVALID
-- cost   O(fields), at most 1,000
-- include: keys check ledger

local version = whole('version', ARGV[1], 0, 9007199254740991)
if #ARGV % 2 == 0 or #ARGV > 2001 then invalid('arguments', tostring(#ARGV), 'a version, then pairs, at most 1000') end
for i = 2, #ARGV, 2 do
  name('config', ARGV[i])
  if not string.match(ARGV[i + 1] or '', '^[%w_.,+-]+$') or #ARGV[i + 1] > 1024 then
    invalid(ARGV[i], ARGV[i + 1] or '', 'a number, or words of letters, digits and _ . , + -')
  end
end
if refusal then return refusal end
if tonumber(call('HGET', ROOT .. 'config', 'version') or 0) ~= version then return 'changed' end
local values = { 'version', int(version + 1) }
for i = 2, #ARGV do table.insert(values, ARGV[i]) end
call('DEL', ROOT .. 'config')
call('HSET', ROOT .. 'config', unpack(values))
-- What every script needs stands beside the clock: one read less for each.
call('HSET', LEDGER, 'silence_ms', int(math.max(10000, 3 * setting_ms('monitor_interval', 3))),
  'events_max', int(setting('events_max', 20000)),
  -- Time constant of the decay of usage: half-life / ln 2.
  'usage_seconds', format('%.1f', math.max(1, setting('usage_half_life_seconds', 3600)) / 0.6931471805599453))
journal('config', unpack(values))
save()
return int(version + 1)
