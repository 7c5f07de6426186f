-- Reads rows. KEYS: prefix. ARGV: the count of commits that they must be of or '', the watch to keep up or '', how much
-- of its undo list is known, the run of the journal or '', then for each row its table and key.
-- Answers the count; if it is the right one also the rows, and what is new in the undo list.
local prefix = KEYS[1]
if ARGV[4] ~= '' and redis.call('HGET', prefix .. ':life', 'run') ~= ARGV[4] then
  return {'another run'}
end
local commits = redis.call('GET', prefix .. ':commits') or '0'
local undo = {}
if ARGV[2] ~= '' then
  if redis.call('GET', prefix .. ':watch') ~= ARGV[2] then
    return {'lost'}
  end
  redis.call('PEXPIRE', prefix .. ':watch', 30000)
  undo = redis.call('LRANGE', prefix .. ':undo', ARGV[3], -1)
elseif ARGV[1] ~= '' and commits ~= ARGV[1] then
  return {commits}
end
local found = {}
for at = 5, #ARGV, 2 do
  found[#found + 1] = redis.call('HGET', prefix .. ':' .. ARGV[at], ARGV[at + 1]) or ''
end
return {commits, found, undo}
