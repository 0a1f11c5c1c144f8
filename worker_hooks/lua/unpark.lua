-- Takes a parked job: into the hands of a worker that starts it, or back to the front of its queue.
--
-- KEYS   1 scheduled registry  2 parked  3 until  4 intermediate list  5 queue
-- ARGV   1 lease id  2 start (in hand) or requeue  3 what a job's hash is called before its id
-- reply  job id, 1 it is ours | job id, 0 somebody took it meanwhile: cancelled, deleted, started by hand | nothing parked
local job = redis.call('HGET', KEYS[2], ARGV[1])
if not job then return false end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
local ours = redis.call('HGET', ARGV[3] .. job, 'status') == 'scheduled' and redis.call('ZREM', KEYS[1], job) == 1
if not ours then return { job, 0 } end
redis.call('HSET', ARGV[3] .. job, 'status', 'queued')
if ARGV[2] == 'start' then
  redis.call('RPUSH', KEYS[4], job)
else
  redis.call('LPUSH', KEYS[5], job)
end
return { job, 1 }
