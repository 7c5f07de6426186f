-- Begins to read one moment: from now on commits keep what they replace. KEYS: prefix.
-- ARGV: the run of the journal or ''.
-- Answers the count of commits, the watch, and how much of its undo list is of before.
local prefix = KEYS[1]
if ARGV[1] ~= '' and redis.call('HGET', prefix .. ':life', 'run') ~= ARGV[1] then
  return {'another run'}
end
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
