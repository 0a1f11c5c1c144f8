-- The pool's keys, in the order of broker/ledger/keys.py. A name that ends in _OF is completed with a host, UUID or id.
-- All share the hash tag {POOL}: records are reached by prefix, and still live in the slot that KEYS declare.
local LEDGER, CONFIG, GPUS, GPU_OF, FREE, FRESH, CAPACITY, LEASE_OF, LEASES, ENDED_OF, WAITER_OF, WAITERS, WAITING,
  WAKE_OF, EVENTS, METRICS_OF, HOSTS, HOST_OF = unpack(KEYS)
local call, format = redis.call, string.format

-- A whole number as text. Lua's own conversions keep 14 digits, or differ between servers.
local function int(number)
  return format('%d', number)
end
