-- Puts a job that was popped back to the front of its queue, unless somebody did so before.
--
-- KEYS   1 intermediate list  2 queue
-- ARGV   1 job id
-- reply  1 | 0
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
