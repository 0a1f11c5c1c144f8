-- Writes what became of a job into its meta, unless it was deleted meanwhile.
--
-- KEYS   1 the job's hash
-- ARGV   1 meta, serialized
-- reply  1 | 0
if redis.call('HEXISTS', KEYS[1], 'data') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'meta', ARGV[1])
return 1
