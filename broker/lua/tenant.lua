#!lua
-- A tenant's quota and weight. A quota below what it holds ends nothing: it gets no more until it is below.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 name  2 quota_bytes ('0' none, '' as it was)  3 weight in thousandths ('' as it was): of two tenants of one
--        priority who used the same, the one with twice the weight counts as having used half
-- reply  ok
-- errors BROKER_INVALID
-- cost   O(log n), plus the waiters served
-- include: keys check ledger turn
-- needs: tenant share

local who = name('tenant', ARGV[1])
if ARGV[2] ~= '' then whole('quota', ARGV[2], 0, 9007199254740991) end
if ARGV[3] ~= '' then whole('weight', ARGV[3], 1, 1000000) end
if refusal then return refusal end
local t = tenant_of(who)
charge(t, 0)
if ARGV[2] ~= '' then call('HSET', TENANT_OF .. who, 'quota_bytes', ARGV[2]) end
if ARGV[3] ~= '' then call('HSET', TENANT_OF .. who, 'weight_milli', ARGV[3]) end
t.quota = ARGV[2] ~= '' and tonumber(ARGV[2]) or t.quota
t.weight = ARGV[3] ~= '' and tonumber(ARGV[3]) / 1000 or t.weight
free_the_held_up(t)
journal('tenant', 'name', who, 'quota_bytes', int(t.quota), 'weight_milli', int(t.weight * 1000))
reap()
serve()
save()
return 'ok'
