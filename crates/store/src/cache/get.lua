-- Reads a copy. KEYS: the copy. Answers the time in microseconds, then if there is one how many milliseconds it may still
-- be used and its row ('' for an entity that was not there).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local row = redis.call('HGET', KEYS[1], 'row')
local left = redis.call('PTTL', KEYS[1])
if not row or left <= 0 then
  return {string.format('%.0f', now)}
end
return {string.format('%.0f', now), tostring(left), row}
