#!lua flags=allow-oom
-- A client has a new connection: is this the server under which the ledger was last written? Another one may lack what
-- was granted last, so a new epoch begins: tokens go on above all of before, and holders register what they hold before
-- anything new is granted (law 11).
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 the server's run id
-- reply  the epoch; 0 while there is no ledger
-- errors BROKER_INVALID
-- cost   O(1)
-- include: keys check ledger

local primary = name('primary', ARGV[1])
if refusal then return refusal end
if born then return '0' end -- to look at a pool is not to make one
local before = call('HMGET', LEDGER, 'primary', 'epoch')
if before[1] == primary then return before[2] or '0' end
local answer = before[2] or '0'
if before[1] then
  new_epoch()
  answer = int(epoch)
  settle()
end
call('HSET', LEDGER, 'primary', primary)
save()
return answer
