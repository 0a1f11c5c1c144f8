#!lua
-- Remembers what one run of a function took, by the size of its input: what a request of "auto" is made of
-- (broker/sizes.py, docs/decisions/right-size.md). A run is learned once, also if it is told twice.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 function  2 bucket: round(4 log2 of the input's size), -256 to 256, or '-' without a size  3 run: the name of
--        its lease  4 'done', or 'oom' if it ran out of memory  5 asked_bytes: what it had  6 default_bytes: what the
--        function's author would ask for, or '0'  7 peak_bytes: of 'done', what agents saw it use
-- reply  learned | known (that run was learned before)
-- errors BROKER_INVALID
-- cost   O(64) and O(log n) of at most 1,000 functions
-- include: keys check ledger

local GENERATION, BUCKETS_MOST, FUNCTIONS_MOST, RUNS_KEPT, MOST = 32, 64, 1000, 8, 4398046511104
local LEAST_MARGIN = 256 * MIB -- a framework is capped at its lease less a whole CUDA context: it needs that more
local what, bucket, run = name('function', ARGV[1]), ARGV[2] or '', name('run', ARGV[3])
local number = string.match(bucket, '^-?%d+$') and #bucket <= 4 and tonumber(bucket)
if bucket ~= '-' and not (number and int(number) == bucket and math.abs(number) <= 256) then
  invalid('bucket', bucket, "a whole number from -256 to 256, or '-'")
end
local oom = ARGV[4] == 'oom'
if not oom and ARGV[4] ~= 'done' then invalid('how', ARGV[4], 'done or oom') end
local asked = whole('asked_bytes', ARGV[5], 1, MOST)
local default = whole('default_bytes', ARGV[6], 0, MOST)
local peak = oom and 0 or whole('peak_bytes', ARGV[7], 1, MOST)
if refusal then return refusal end

local key = SIZE_OF .. what
local told = call('HMGET', key, 'recent', 'buckets')
local recent = {}
for one in string.gmatch(told[1] or '', '%S+') do
  if one == run then return 'known' end
  recent[#recent + 1] = one
end
recent[#recent + 1] = run
if #recent > RUNS_KEPT then table.remove(recent, 1) end

-- What somebody wrote there by hand and is no number counts as nothing.
local FIELDS = { 'runs', 'oom', 'floor_bytes', 'peak_bytes', 'need_bytes', 'young_peak_bytes', 'young_need_bytes',
  'asked_mib', 'wasted_mib', 'asked_bytes', 'last_bytes' }
local fields = {}
for i, field in ipairs(FIELDS) do fields[i] = field .. '@' .. bucket end
local kept, b = call('HMGET', key, unpack(fields)), {}
for i, field in ipairs(FIELDS) do
  b[field] = kept[i] and #kept[i] <= 16 and string.match(kept[i], '^%d+$') and tonumber(kept[i]) or 0
end

b.asked_bytes = asked
if oom then
  b.oom = b.oom + 1
  b.floor_bytes = math.max(b.floor_bytes, math.min(math.ceil(asked * 1.5), MOST), default)
else
  -- Over the last 32 to 64 runs: of this generation of 32 runs, and of all of the one before.
  if b.runs % GENERATION == 0 then
    b.peak_bytes, b.need_bytes, b.young_peak_bytes, b.young_need_bytes = b.young_peak_bytes, b.young_need_bytes, 0, 0
    b.asked_mib, b.wasted_mib = math.floor(b.asked_mib / 2), math.floor(b.wasted_mib / 2)
  end
  -- What takes all that it may would grow with its own margin: where a run ended well, that is enough, or the default.
  local enough = peak <= asked and math.max(asked, default) or MOST
  local need = math.min(peak + math.max(math.ceil(peak / 10), LEAST_MARGIN), enough)
  b.runs, b.last_bytes = b.runs + 1, peak
  b.young_peak_bytes, b.young_need_bytes = math.max(b.young_peak_bytes, peak), math.max(b.young_need_bytes, need)
  b.peak_bytes, b.need_bytes = math.max(b.peak_bytes, peak), math.max(b.need_bytes, need)
  b.asked_mib = b.asked_mib + math.floor(asked / MIB)
  b.wasted_mib = b.wasted_mib + math.floor(math.max(0, asked - peak) / MIB)
  -- The floor wears off towards the need; the slower, the oftener it was needed.
  if b.floor_bytes <= b.need_bytes then
    b.floor_bytes = 0
  else
    local above = b.floor_bytes - b.need_bytes
    b.floor_bytes = b.floor_bytes - math.ceil(above / (16 * math.max(1, math.min(b.oom, 16))))
  end
end

-- The buckets in the order of their last use, the oldest first.
local order = {}
for one in string.gmatch(told[2] or '', '%S+') do
  if one ~= bucket then order[#order + 1] = one end
end
order[#order + 1] = bucket
while #order > BUCKETS_MOST do
  local old = table.remove(order, 1)
  for i, field in ipairs(FIELDS) do fields[i] = field .. '@' .. old end
  call('HDEL', key, unpack(fields))
end

local values = { 'recent', table.concat(recent, ' '), 'buckets', table.concat(order, ' ') }
for _, field in ipairs(FIELDS) do
  values[#values + 1] = field .. '@' .. bucket
  values[#values + 1] = int(b[field])
end
call('HSET', key, unpack(values))
call('ZADD', SIZES, int(now), what)
if call('ZCARD', SIZES) > FUNCTIONS_MOST then
  local oldest = call('ZPOPMIN', SIZES)[1]
  call('DEL', SIZE_OF .. oldest)
end
return 'learned'
