#!lua
-- Why a request waits, card by card, by the very predicate that would grant it. Writes nothing.
--
-- KEYS   1 gpubroker:{POOL}: (all names of the pool begin with it)  2 gpubroker:{POOL}:ledger (for a cluster only)
-- ARGV   1 'lease' and 2 the id of a waiter or lease and 3 a cursor; or 1 'ask' and from 2 on what acquire takes after
--        its id (bytes, ttl_ms, host, gpu, priority, tenant, owner, job_id, pid, token, wait, options), with an option
--        cursor: where to go on among the cards, 0 first
-- reply  kind (waiting, granted, ask, unknown)  place in the queue or 0  waiters  quota_left_bytes or ''  settling_until
--        or 0  number of cards  next cursor or ''  why it can never be, or '' (see include/possible.lua); then for each of up to 32 cards: uuid host verdict need_bytes
--        free_bytes budget_bytes capacity_bytes detail
-- errors BROKER_INVALID
-- cost   O(32), and of the peers of each card where several are asked for
-- include: keys check ledger gpu request
-- needs: queue tenant place reserve cards wide possible

local PAGE = 32
local kind, ask, cursor, where = ARGV[1], nil, 0, 0
if kind == 'ask' then
  ask = read_request('explain', 2)
  for i = 13, #ARGV, 2 do
    if ARGV[i] == 'cursor' then cursor = whole('cursor', ARGV[i + 1], 0, 1000000) end
  end
elseif kind == 'lease' then
  name('lease_id', (string.gsub(ARGV[2] or '', '%+$', '')))
  cursor = whole('cursor', ARGV[3] or '0', 0, 1000000)
else
  invalid('kind', kind, 'lease or ask')
end
if refusal then return refusal end

if kind == 'lease' then
  ask = read_waiter(ARGV[2])
  kind = ask and 'waiting' or call('EXISTS', LEASE_OF .. ARGV[2]) == 1 and 'granted' or 'unknown'
  if ask then where = call('ZRANK', WAITERS, ask.id) + 1 end
end
local cards_total = call('ZCARD', CAPACITY)
if not ask then return { kind, '0', int(queued), '', int(settling_until), int(cards_total), '', '' } end

local t = tenant_of(ask.tenant)
local score = where > 0 and tonumber(call('ZSCORE', WAITERS, ask.id))
  or -tonumber(ask.priority) * PRIORITY + arrivals + 1

-- How many cards of a host would do, for those who want several.
local rooms = {}
local function room_on(host, want)
  local key = host .. '#' .. int(want.bytes)
  if not rooms[key] then
    local n = 0
    for _, uuid in ipairs(host_gpus(host)) do
      local card = read_card(uuid)
      if card and not obstacle(ask, card, want.bytes) then n = n + 1 end
    end
    rooms[key] = n
  end
  return rooms[key]
end

local function detail_of(why, card)
  if why == 'closed' then return card.state .. ': ' .. (call('HGET', GPU_OF .. card.uuid, 'reason') or '') end
  if why == 'seat' then return ask.crew end
  if why == 'silent' then return card.sampled_at end
  if why == 'reserved' then return card.reserved end
  if why == 'drained' then return call('HGET', GPU_OF .. card.uuid, 'drained_by') or '' end
  if why == 'selector' then return ask.host .. ' ' .. ask.gpu .. ' ' .. ask.selector end
  return ''
end

-- What speaks against one alternative on one card.
local function verdict(want, card)
  local why = obstacle(ask, card, want.bytes)
  if why then return why, detail_of(why, card) end
  if not within_quota(t, want.count * want.bytes) then return 'quota', '' end
  if want.count > 1 and room_on(card.host, want) < want.count then return 'gang', int(room_on(card.host, want)) end
  local first = queued > 0 and card.reserved == '' and first_before(ask, score, card)
  if first and first.bypassed >= setting('bypass_max', 64) then return 'passed', first.id end
  return 'fits', ''
end

local uuids = call('ZRANGE', CAPACITY, cursor, cursor + PAGE - 1)
local answer = { kind, int(where), int(queued), t.quota > 0 and int(math.max(0, t.quota - t.leased)) or '',
  int(settling and settling_until or 0), int(cards_total), cursor + #uuids < cards_total and int(cursor + #uuids) or '',
  never_fits(ask) or '' }
for _, uuid in ipairs(uuids) do
  local card = read_card(uuid)
  if card then
    local best, why, detail
    for _, want in ipairs(ask.wants) do -- the first alternative that fits, else the smallest one's trouble
      local this, more = verdict(want, card)
      if this == 'fits' then
        best, why, detail = want, this, more
        break
      elseif not best or want.bytes < best.bytes then
        best, why, detail = want, this, more
      end
    end
    for _, value in ipairs({ uuid, card.host, why, int(best.bytes), int(math.max(0, card.budget - card.leased)),
      int(card.budget), int(card.capacity), detail }) do
      table.insert(answer, value)
    end
  end
end
return answer
