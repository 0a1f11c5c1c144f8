-- Takes the first job of the first queue that has one, and leaves it in that queue's intermediate list.
--
-- KEYS   for each queue in turn: the queue, its intermediate list
-- reply  number of the queue, job id; or nothing
for i = 1, #KEYS, 2 do
  local job = redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT')
  if job then return { (i + 1) / 2, job } end
end
return false
