-- Requests as texts and as tables.
-- needs: keys
-- gives: request_text completed

-- The alternatives of a request, in order of preference: "8589934592", "2x8589934592", joined by commas.
local function wants_of(text)
  local wants = {}
  if string.match(text, '^%d+$') then return { { count = 1, bytes = tonumber(text) } } end
  for part in string.gmatch(text, '[^,]+') do
    local count, bytes = string.match(part, '^(%d+)x(%d+)$')
    table.insert(wants, { count = tonumber(count or 1), bytes = tonumber(bytes or part) })
  end
  return wants
end

-- The text that another asking under the same name must repeat.
function request_text(ask)
  local text = table.concat({ ask.asks, ask.host, ask.gpu, ask.priority, ask.tenant }, '|')
  if ask.crew ~= '' then text = text .. '|' .. ask.crew end
  if ask.plain and ask.placement == '' and ask.host_memory == 0 and ask.cpus == 0 then return text end
  return table.concat({ text, ask.placement, ask.selector, int(ask.host_memory), int(ask.cpus) }, '|')
end

-- Completes a request from its texts; `bytes` where it is for so many of one card, and they are known.
function completed(ask, bytes)
  ask.wants = bytes and { { count = 1, bytes = bytes } } or wants_of(ask.asks)
  ask.plain = ask.labels == '' and ask.capability == '' and ask.mig == ''
  ask.crew = ask.crew or ''
  ask.selector = ask.plain and '' or ask.capability .. ';' .. ask.mig .. ';' .. ask.labels
  return ask
end
