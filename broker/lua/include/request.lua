-- A request as acquire and explain are given it, checked.
-- needs: keys check asks gpu options
-- gives: read_request

-- Most requests say nothing beside but a nonce.
local function options_from(first)
  if ARGV[first] == 'nonce' and ARGV[first + 1] and not ARGV[first + 2] then
    return { nonce = nonce_text(ARGV[first + 1]) }
  end
  return ARGV[first] and check_options(first) or {}
end

-- The request in ARGV from `at` on: asks ttl_ms host gpu priority tenant owner job_id pid token wait, then options.
function read_request(id, at)
  local asks, priority, pid = ARGV[at], ARGV[at + 4] or '', ARGV[at + 8] or ''
  local bytes -- of one card: what most ask for
  if string.match(asks or '', '^%d+$') then bytes = whole('memory', asks, 1, 4398046511104) else check_asks(asks) end
  if not (priority == '0' or string.match(priority, '^-?%d+$') and #priority <= 5 and math.abs(tonumber(priority)) <= 1000) then
    invalid('priority', priority, 'a whole number from -1000 to 1000')
  end
  if pid ~= '' then whole('pid', pid, 1, 4194304) end
  local o = options_from(at + 11)
  local ask = { id = name('lease_id', id), asks = asks, ttl_ms = whole('ttl_ms', ARGV[at + 1], 100, 86400000),
    host = name('host', ARGV[at + 2], true), gpu = name('gpu', ARGV[at + 3], true), priority = priority,
    tenant = name('tenant', ARGV[at + 5]), owner = name('owner', ARGV[at + 6]), job_id = name('job_id', ARGV[at + 7], true),
    pid = pid, token = ARGV[at + 9] or '', reserved = '', placement = o.placement and placement_of(o.placement) or '',
    labels = o.labels or '', capability = o.capability or '', mig = o.mig ~= 'any' and o.mig or '',
    host_memory = tonumber(o.host_memory) or 0, cpus = tonumber(o.cpus) or 0, func = o['function'] or '',
    nonce = o.nonce or '', crew = o.crew or '', seat = o.seat or '', sits = o.sits == '1',
    wants = '', plain = '', selector = '', request = '' }
  if refusal then return ask end
  completed(ask, bytes)
  if ask.gpu ~= '' then
    for _, want in ipairs(ask.wants) do
      if want.count > 1 then invalid('gpus', int(want.count), '1 where a gpu is named') end
    end
  end
  ask.request = request_text(ask)
  return ask
end
