#!lua
-- One host's sample in one step: a stream entry and the hash of each GPU, an event for each state that changed, the
-- budget that follows, what its agent saw of leases and their processes, and waiters served if anything grew.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 host  2 interval_ms (a sample is fresh for three)  3 state of the host, OK or UNAVAILABLE  4 its reason
--        5 source  6 number of GPUs, at most 64  7 number of leases, at most 1024  8 epoch that the agent was last told,
--        0 at its start  9 life: a name that the agent gave itself at its start  10 sequence: 1, 2, ... in that life
--        11 read_at: the ledger's time when the reading began, or ''  12 the host's memory in bytes or ''
--        13 its processors in thousandths or ''  14 labels k=v,k=v or ''  15 machine: a name of this boot of the host's
--        machine, or ''  16 vitals: what else the host says, "name value name value"; then for each GPU 22 values:
--        uuid index name state job_state reason memory_total_bytes memory_used_bytes memory_reserved_bytes
--        unmanaged_bytes temperature_c utilization_percent power_mw process_count capability mig processes marks hardware
--        xids warning listed; '' is unknown (processes: those without a lease, "pid:bytes pid:bytes"; marks: the agent drains it for
--        "health", "people", "health,people"; hardware: what else it says, "name value name value"; xids: the driver's errors
--        since the last sample, "48 31"; warning: "threshold seconds slope", the slope in 0.001 °C a minute; listed: every
--        process on the card, in JSON: [[pid, "when it began", bytes or null, "name", "lease or nothing"], ...]);
--        then for each lease 6: id token verdict used_bytes over_bytes idle_seconds (verdict: alive, gone or '': what the
--        agent knows of its process; over_bytes: on the card where it takes most beyond what it borrowed; idle_seconds: 0
--        while it is not idle for as long as the pool calls idle)
-- reply  the ledger's time in ms, the epoch, then the UUIDs that were not taken since another host publishes them
--        late ledger_ms epoch why      (nothing is written; why: old, the sample is not newer than the last; followed, it
--        is of an older life; unknown, the ledger knows another life and not the first sample of this one)
--        taken ledger_ms epoch fresh_until_ms  (another machine publishes for this host, and is not silent)
-- errors BROKER_INVALID
-- cost   O(log n) for each GPU and lease, plus the waiters served
-- include: keys check ledger gpu wide sample turn
-- needs: cards host labels

local host = name('host', ARGV[1])
local interval_ms = whole('interval_ms', ARGV[2], 1, 3600000)
local count, seen = whole('gpus', ARGV[6], 0, 64), whole('leases', ARGV[7], 0, 1024)
local known_epoch, sequence = whole('epoch', ARGV[8], 0, 9007199254740991), whole('sequence', ARGV[10], 1, 9007199254740991)
local life = name('life', ARGV[9])
local read_at = ARGV[11] ~= '' and whole('read_at', ARGV[11], 0, 9007199254740991) or now
if ARGV[12] ~= '' then whole('host_memory', ARGV[12], 0, 1125899906842624) end
if ARGV[13] ~= '' then whole('cpus', ARGV[13], 0, 100000000) end
local host_labels = labels_text('labels', ARGV[14])
if ARGV[3] ~= 'OK' and ARGV[3] ~= 'UNAVAILABLE' then invalid('host_state', ARGV[3], 'OK or UNAVAILABLE') end
local machine, said, unsaid = name('machine', ARGV[15], true), read_vitals(ARGV[16] or '')
if #ARGV ~= 16 + count * FIELDS + seen * WORDS then
  invalid('arguments', tostring(#ARGV), '16, 22 for each GPU and 6 for each lease')
end

local reports, verdicts = {}, {}
if not refusal then
  for i = 1, count do reports[i] = read_report(17 + (i - 1) * FIELDS, host_labels) end
  for i = 1, seen do verdicts[i] = read_verdict(17 + count * FIELDS + (i - 1) * WORDS) end
end
if refusal then return refusal end

local before = call('HMGET', HOST_OF .. host, 'life', 'sequence', 'drained', 'gpus', 'epoch', 'lives',
  'machine', 'fresh_until')
local told_epoch = epoch or tonumber(call('HGET', LEDGER, 'epoch') or 0)
-- A sample that was held up on its way is no news, nor is one of an agent that another took the place of.
local lives = before[6] or '' -- that came before the one at work
local late = string.find(' ' .. lives .. ' ', ' ' .. life .. ' ', 1, true) and 'followed'
  or before[1] == life and sequence <= tonumber(before[2]) and 'old'
  or before[1] and before[1] ~= life and sequence > 1 and call('SISMEMBER', HOSTS, host) == 1 and 'unknown'
if late then return { 'late', int(now), int(told_epoch), late } end
-- Two machines of one name would tell of each other's cards and processes. On one machine the newer agent takes over.
if before[1] and before[1] ~= life and machine ~= '' and (before[7] or '') ~= '' and machine ~= before[7]
    and call('SISMEMBER', HOSTS, host) == 1 and tonumber(before[8] or 0) >= now then
  return { 'taken', int(now), int(told_epoch), before[8] }
end
-- law 2: whose user may not write samples is refused here, before anything else is written.
call('PERSIST', METRICS_OF .. host)
-- law 11: an agent that remembers an older epoch worked with a ledger that has lost something since. Its host's holders
-- are given time to register, once; one that comes much later finds its holders' memory counted as unmanaged.
if known_epoch ~= 0 and known_epoch < told_epoch and before[5] ~= int(told_epoch)
    and (settling or settling_until == 0) and math.floor(now / 1000) - 1735689600 - told_epoch < 60 then
  settle()
end

if before[1] and before[1] ~= life then
  local kept = { before[1] }
  for one in string.gmatch(lives, '%S+') do
    if #kept < 8 then table.insert(kept, one) end
  end
  lives = table.concat(kept, ' ')
end

local sample = { host = host, count = count, interval_ms = interval_ms, at = math.min(now, read_at),
  fresh_until = math.min(now, read_at) + 3 * interval_ms, history = setting('history_size', 200),
  drained = before[3] == '1' }
local answer, taken = { int(now), int(told_epoch) }, {}
if count > 0 then read_caps(reports) end
for _, report in ipairs(reports) do
  if publish(sample, report) then table.insert(taken, report.uuid) else table.insert(answer, report.uuid) end
end
-- law 8: a card of this host that is not in its sample has no fresh word.
local named = ' ' .. table.concat(taken, ' ') .. ' '
for uuid in string.gmatch(before[4] or '', '%S+') do
  if not string.find(named, ' ' .. uuid .. ' ', 1, true) then
    local card = read_card(uuid)
    if card and card.host == host then
      close_gpu(card, 'not in the sample of its host')
      table.insert(taken, uuid) -- it stays the host's, so that leaving forgets it
    end
  end
end
if call('SADD', HOSTS, host) == 1 then journal('joined', 'host', host, 'source', ARGV[5]) end
local known = host_of(host)
local more = tonumber(ARGV[12] ~= '' and ARGV[12] or 0) > known.memory or tonumber(ARGV[13] ~= '' and ARGV[13] or 0) > known.cpus
call('HSET', HOST_OF .. host, 'host', host, 'state', ARGV[3], 'reason', ARGV[4], 'source', ARGV[5],
  'gpus', table.concat(taken, ' '), 'sampled_at', int(sample.at), 'fresh_until', int(sample.fresh_until), 'life', life,
  'lives', lives, 'sequence', ARGV[10], 'epoch', int(told_epoch), 'labels', host_labels, 'memory_bytes', ARGV[12] ~= '' and ARGV[12] or '0',
  'cpus_milli', ARGV[13] ~= '' and ARGV[13] or '0', 'machine', machine, unpack(said))
if #unsaid > 0 then call('HDEL', HOST_OF .. host, unpack(unsaid)) end
hosts_read[host] = nil
if more then host_grew(host) end
if count > 1 then widen_host(host) end
for _, verdict in ipairs(verdicts) do take_verdict(sample, verdict) end
reap()
serve()
save()
return answer
