-- A request as acquire and explain are given it, checked.
-- needs: keys check asks gpu
-- gives: read_request

local PLACEMENTS = { balanced = '', pack = 'pack', spread = 'spread', cool = 'cool' }
local OPTIONS = { placement = true, labels = true, capability = true, mig = true, host_memory = true, cpus = true,
  ['function'] = true, nonce = true, cursor = true, crew = true, seat = true, sits = true }

-- Alternatives: at most 8, each so many bytes of each of up to 16 GPUs.
local function check_asks(text)
  if string.match(text or '', '^%d+$') then return whole('memory', text, 1, 4398046511104) end
  local n = 0
  for part in string.gmatch((text or '') .. ',', '([^,]*),') do
    local count, bytes = string.match(part, '^(%d+)x(.*)$')
    whole('gpus', count or '1', 1, WIDEST)
    whole('memory', bytes or part, 1, 4398046511104)
    n = n + 1
  end
  if n > 8 then invalid('memory', text, 'at most 8 alternatives') end
end

-- Only what is given is looked at: most requests give no more than a nonce.
local function check_options(o)
  if o.nonce then nonce_text(o.nonce) end
  if o['function'] then name('function', o['function'], true) end
  if o.placement and not PLACEMENTS[o.placement] then
    invalid('placement', o.placement, 'balanced, pack, spread or cool')
  end
  if o.labels then labels_text('labels', o.labels) end
  if o.capability and not string.match(o.capability, '^%d%d?%.%d%d?$') then
    invalid('capability', o.capability, 'a version such as 8.6')
  end
  if o.mig and (not string.match(o.mig, '^%w[%w.+]*$') or #o.mig > 32) then
    invalid('mig', o.mig, 'any, none, only or a profile such as 1g.5gb')
  end
  if o.crew then name('crew', o.crew) end
  if o.seat and not (#o.seat <= 2400 and string.match(o.seat, '^%w[%w_.:/@-]* %w[%w_.:/@-]* %w[%w_.:/@,-]*$')) then
    invalid('seat', o.seat, 'host, worker and its queues')
  end
  if o.host_memory then whole('host_memory', o.host_memory, 0, 1125899906842624) end
  if o.cpus then whole('cpus', o.cpus, 0, 100000000) end
end

-- The request in ARGV from `at` on: asks ttl_ms host gpu priority tenant owner job_id pid token wait, then options.
function read_request(id, at)
  local options = {}
  for i = at + 11, #ARGV, 2 do
    if not OPTIONS[ARGV[i]] or not ARGV[i + 1] then
      invalid('option', ARGV[i], 'placement, labels, capability, mig, host_memory, cpus, function, nonce, crew, seat or sits, each with a value')
    end
    options[ARGV[i]] = ARGV[i + 1]
  end
  local ask = { id = name('lease_id', id), asks = ARGV[at], host = name('host', ARGV[at + 2], true),
    gpu = name('gpu', ARGV[at + 3], true), priority = ARGV[at + 4] or '', tenant = name('tenant', ARGV[at + 5]),
    owner = name('owner', ARGV[at + 6]), job_id = name('job_id', ARGV[at + 7], true), pid = ARGV[at + 8] or '',
    reserved = '' }
  ask.ttl_ms = whole('ttl_ms', ARGV[at + 1], 100, 86400000)
  check_asks(ask.asks)
  if not (string.match(ask.priority, '^-?%d+$') and #ask.priority <= 5 and math.abs(tonumber(ask.priority)) <= 1000) then
    invalid('priority', ask.priority, 'a whole number from -1000 to 1000')
  end
  if ask.pid ~= '' then whole('pid', ask.pid, 1, 4194304) end
  if #ARGV >= at + 11 then check_options(options) end
  if refusal then return ask end
  ask.placement = PLACEMENTS[options.placement or 'balanced']
  ask.labels, ask.capability = options.labels or '', options.capability or ''
  ask.mig = (options.mig or 'any') == 'any' and '' or options.mig
  ask.host_memory, ask.cpus = tonumber(options.host_memory or 0), tonumber(options.cpus or 0)
  ask.func, ask.nonce = options['function'] or '', options.nonce or ''
  ask.crew, ask.seat, ask.sits = options.crew or '', options.seat or '', options.sits == '1'
  completed(ask)
  for _, want in ipairs(ask.wants) do
    if want.count > 1 and ask.gpu ~= '' then invalid('gpus', int(want.count), '1 where a gpu is named') end
  end
  ask.request = request_text(ask)
  return ask
end
