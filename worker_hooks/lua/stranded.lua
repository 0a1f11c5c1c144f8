-- Puts popped jobs whose worker died before it could start or park them back to the front of their queue. A job has to
-- be seen twice, so long apart.
--
-- KEYS   1 intermediate list  2 queue  3 seen (zset: job id by the ms at which it was first seen here)
-- ARGV   1 ms that a job may be in a worker's hands  2 what a job's hash is called before its id  then ids of jobs that are
--        at work
-- reply  how many were put back
local time, working, put_back = redis.call('TIME'), {}, 0
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV do working[ARGV[i]] = true end
for _, job in ipairs(redis.call('ZRANGE', KEYS[3], 0, 199)) do
  if not redis.call('LPOS', KEYS[1], job) then redis.call('ZREM', KEYS[3], job) end
end
for _, job in ipairs(redis.call('LRANGE', KEYS[1], 0, 199)) do
  local seen = redis.call('ZSCORE', KEYS[3], job)
  if working[job] then
    redis.call('ZREM', KEYS[3], job)
  elseif not seen then
    redis.call('ZADD', KEYS[3], now, job)
  elseif now - seen >= tonumber(ARGV[1]) then
    redis.call('LREM', KEYS[1], 1, job)
    redis.call('ZREM', KEYS[3], job)
    if redis.call('HGET', ARGV[2] .. job, 'status') == 'queued' then -- else it had been taken up, and this was left over
      redis.call('LPUSH', KEYS[2], job)
      put_back = put_back + 1
    end
  end
end
redis.call('PEXPIRE', KEYS[3], 3600000)
return put_back
