-- Takes a job back that was taken up and did not come to its end: to the front of its queue, if this attempt is still the
-- one that has it. Said again, or by who was taken for dead meanwhile, it does nothing.
--
-- KEYS   1 started registry  2 intermediate list  3 queue  4 the job's hash
-- ARGV   1 the registry's entry, of this attempt alone  2 job id  3 its meta, serialized; empty: as it is
-- reply  1 | 0 somebody did so before
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LREM', KEYS[2], 1, ARGV[2])
if redis.call('HEXISTS', KEYS[4], 'data') == 0 then return 0 end -- deleted meanwhile
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[4], 'status', 'queued')
if ARGV[3] ~= '' then redis.call('HSET', KEYS[4], 'meta', ARGV[3]) end
return 1
