-- Labels of hosts, checked.
-- needs: keys check
-- gives: labels_text

-- Labels "k=v,k=v", at most 256 characters; or ''.
function labels_text(field, value)
  for pair in string.gmatch(value or '', '[^,]+') do
    if not string.match(pair, '^%w[%w_.-]*=[%w_.-]+$') then invalid(field, value, 'name=value pairs joined by commas') end
  end
  if #(value or '') > 256 then invalid(field, value, 'at most 256 characters') end
  return value or ''
end
