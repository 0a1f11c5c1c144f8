-- Takes a popped job out of the worker's hands, as started: RQ's clean-up of abandoned jobs finds it from here on, whoever
-- runs it. Until its horse writes ``started_at``, nothing of it has run. Said again after a lost reply it is ours still.
--
-- KEYS   1 intermediate list  2 the job's hash  3 started registry
-- ARGV   1 job id  2 the registry's entry to be, of this attempt alone  3 its meta, serialized; empty: as it is
-- reply  1 | 0 not ours any more
if redis.call('ZSCORE', KEYS[3], ARGV[2]) then return 1 end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[2], 'data') == 0 then return 0 end -- deleted meanwhile
redis.call('HSET', KEYS[2], 'status', 'started')
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'meta', ARGV[3]) end
redis.call('HDEL', KEYS[2], 'started_at')
return 1
