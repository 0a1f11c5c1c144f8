-- Refusals of bad input: the same bounds as at the Python edge, for callers that come by another way.
-- needs: keys
local refusal

-- Remembers the first refusal; values are cut and cleaned, since an error reply is one line.
local function invalid(field, value, allowed)
  refusal = refusal or redis.error_reply('BROKER_INVALID field=' .. field .. ' value='
    .. string.gsub(string.sub(value or '', 1, 60), '[^%w_.:/@+-]', '?') .. ' allowed=' .. allowed)
end

-- A whole number without sign, leading zero, exponent, blank, inf or nan, between least and most.
local function whole(field, value, least, most)
  local number = (value == '0' or string.match(value or '', '^[1-9]%d*$')) and #value <= 16 and tonumber(value)
  if not (number and number >= least and number <= most) then
    invalid(field, value or '', 'a whole number from ' .. format('%d', least) .. ' to ' .. format('%d', most))
    return least
  end
  return number
end

-- A name of letters, digits and _ . : / @ -, a letter or digit first, at most 128 long.
local function name(field, value, optional)
  if optional and value == '' then return value end
  if not (value and #value <= 128 and string.match(value, '^%w[%w_.:/@-]*$')) then
    invalid(field, value or '', '1 to 128 letters, digits or _ . : / @ -, a letter or digit first')
  end
  return value or ''
end

-- What tells one call from all others: the calls of one client are "client-number", the number growing.
local function nonce_text(value)
  if not string.match(value or '', '^[%w-]*$') or #(value or '') > 64 then
    invalid('nonce', value, 'at most 64 letters, digits or -')
  end
  return value or ''
end
