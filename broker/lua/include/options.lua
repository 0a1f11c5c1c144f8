-- What a request may say beside, checked.
-- needs: keys check labels gpu
-- gives: check_options check_asks placement_of

local PLACEMENTS = { balanced = '', pack = 'pack', spread = 'spread', cool = 'cool' }
local OPTIONS = { placement = true, labels = true, capability = true, mig = true, host_memory = true, cpus = true,
  ['function'] = true, nonce = true, cursor = true, crew = true, seat = true, sits = true }

-- Alternatives: at most 8, each so many bytes of each of up to 16 GPUs.
function check_asks(text)
  local n = 0
  for part in string.gmatch((text or '') .. ',', '([^,]*),') do
    local count, bytes = string.match(part, '^(%d+)x(.*)$')
    whole('gpus', count or '1', 1, WIDEST)
    whole('memory', bytes or part, 1, 4398046511104)
    n = n + 1
  end
  if n > 8 then invalid('memory', text, 'at most 8 alternatives') end
end

function placement_of(text)
  return PLACEMENTS[text or 'balanced']
end

-- Only what is given is looked at.
local function check_each(o)
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

-- The options in ARGV from `first` on, names and values in turn.
function check_options(first)
  local options = {}
  for i = first, #ARGV, 2 do
    if not OPTIONS[ARGV[i]] or not ARGV[i + 1] then
      invalid('option', ARGV[i], 'placement, labels, capability, mig, host_memory, cpus, function, nonce, crew, seat or sits, each with a value')
    end
    options[ARGV[i]] = ARGV[i + 1]
  end
  if options.nonce then nonce_text(options.nonce) end
  check_each(options)
  return options
end
