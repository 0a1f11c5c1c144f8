-- Who keeps a card out of service.
-- needs: keys
-- gives: with_mark

-- Who drained a card, in one order: an operator it, or its host; its agent for its health, or for people who want it.
local MARKS = { 'gpu', 'host', 'health', 'people' }
function with_mark(by, mark, on)
  local left, has = {}, ',' .. by .. ','
  for _, one in ipairs(MARKS) do
    local stands = string.find(has, ',' .. one .. ',', 1, true) ~= nil
    if one == mark then stands = on end
    if stands then table.insert(left, one) end
  end
  return table.concat(left, ',')
end
