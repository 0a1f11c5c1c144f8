-- The pool's keys, in the order of broker/ledger/keys.py. A script is sent the prefix "gpubroker:{POOL}:"; where it says
-- LEDGER it runs KEYS[1] .. 'ledger', and so on. A name that ends in _OF is completed with a host, UUID or id. All share the
-- hash tag {POOL}, and live in the slot that the prefix declares.
-- keys: LEDGER ROOT GPUS GPU_OF FREE FRESH CAPACITY LEASE_OF LEASES ENDED_OF WAITER_OF WAITERS WAITING WAKE_OF EVENTS
-- keys: METRICS_OF HOSTS HOST_OF TENANTS TENANT_OF CLASSES WIDE RESERVED LINES_OF LINE_OF GROUPS STALE HARDWARE_OF CREW_OF
-- keys: SIZE_OF SIZES
local call, format, MIB = redis.call, string.format, 1048576
local PRIORITY = 4398046511104 -- 2^42 arrivals in the queue fit below one step of priority

-- A whole number as text. Lua's own conversions keep 14 digits, or differ between servers.
local function int(number)
  return format('%d', number)
end
