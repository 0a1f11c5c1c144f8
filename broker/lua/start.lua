#!lua flags=allow-oom
-- The start gate (law 9): confirms a lease right before job code runs, notes the process that will use it, and starts
-- its TTL afresh.
--
-- KEYS   the pool's keys
-- ARGV   1 id  2 token  3 pid of the process that runs the job, or '' to leave it
-- reply  expires_at_ms
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n)
-- include: keys check ledger gpu reap grant holder

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
if ARGV[3] ~= '' then whole('pid', ARGV[3], 1, 4194304) end
if refusal then return refusal end
local lease, refused = held_by(id, ARGV[2])
if refused then return refused end
if is_over(lease) then return redis.error_reply('BROKER_LEASE_LOST lease=' .. id .. ' why=expired') end

local expires = int(now + lease.ttl_ms)
call('HSET', LEASE_OF .. id, 'expires_at', expires, 'state', 'active')
if ARGV[3] ~= '' then call('HSET', LEASE_OF .. id, 'pid', ARGV[3]) end
call('ZADD', LEASES, due(now + lease.ttl_ms), id)
reap()
serve()
save()
return expires
