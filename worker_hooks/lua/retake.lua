-- Takes a job back whose worker died after it took the job up and before the job's code ran: to the front of its queue.
--
-- KEYS   1 started registry  2 intermediate list  3 queue  4 the job's hash
-- ARGV   1 the registry's entry  2 job id
-- reply  1 | 0 somebody did so before
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LREM', KEYS[2], 1, ARGV[2])
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[4], 'status', 'queued')
return 1
