#!lua flags=allow-oom
-- Ends a lease, gives its bytes back and hands them to waiters in the same step. Asked again, for instance after a lost
-- reply, it answers as before and gives nothing back twice.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 id  2 token  3 'orphan' (its holder is dead: whoever looks for abandoned work is to find it) or nothing
-- reply  released                 (also when it was released before under this token)
--        late                     (its time was over, its bytes still counted: they are back now)
-- errors BROKER_INVALID  BROKER_STALE_TOKEN  BROKER_LEASE_LOST  BROKER_LEASE_NOT_FOUND
-- cost   O(log n), plus the waiters it serves
-- include: keys check ledger holder gpu tenant lease turn

local id = name('lease_id', ARGV[1])
whole('token', ARGV[2], 1, 9007199254740991)
local orphan = ARGV[3] == 'orphan'
if (ARGV[3] or '') ~= '' and not orphan then invalid('orphan', ARGV[3], 'orphan, or nothing') end
if refusal then return refusal end
local lease, refused, how = held_by(id, ARGV[2])
if how == 'released' or how == 'orphaned' then return 'released' end
if refused then return refused end

local over = is_over(lease)
end_lease(lease, orphan and 'orphaned' or 'released', 'released')
reap()
serve()
save()
return over and 'late' or 'released'
