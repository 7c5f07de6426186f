-- Begins to read one moment: from now on commits keep what they replace. KEYS: prefix.
-- Answers the count of commits, the watch, and how much of its undo list is of before.
local prefix = KEYS[1]
if redis.call('EXISTS', prefix .. ':watch') == 0 then
  redis.call('DEL', prefix .. ':undo')
  redis.call('SET', prefix .. ':watch', redis.call('INCR', prefix .. ':watches'))
end
redis.call('PEXPIRE', prefix .. ':watch', 30000)
return {
  redis.call('GET', prefix .. ':commits') or '0',
  redis.call('GET', prefix .. ':watch'),
  tostring(redis.call('LLEN', prefix .. ':undo'))
}
