-- Parks a job that was popped and cannot start now: from here on it is one of RQ's scheduled jobs, due only if nobody
-- of ours is left to start it sooner.
--
-- KEYS   1 intermediate list  2 scheduled registry  3 parked (hash: lease id to job id)  4 until (zset: lease id by the ms
--        at which its wait is over)  5 the job's hash  6 list on which a worker waits that was handed it before
-- ARGV   1 job id  2 lease id  3 ms that it may wait  4 seconds after which RQ's scheduler may have it back
-- reply  1 parked | 0 not ours any more
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
local status = redis.call('HGET', KEYS[5], 'status')
if not status or status == 'canceled' then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] + ARGV[4], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[2])
redis.call('HSET', KEYS[5], 'status', 'scheduled')
redis.call('RPUSH', KEYS[6], ARGV[1])
redis.call('EXPIRE', KEYS[6], 30)
return 1
