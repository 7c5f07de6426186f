-- Reads rows in the order of their keys. KEYS: prefix. ARGV: as in get.lua, then the table, '-' or '[' and the first key,
-- and how many at most.
-- Answers as get.lua, with keys and rows by turns.
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
local rows = prefix .. ':' .. ARGV[5]
local found = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', rows .. ':keys', ARGV[6], '+', 'LIMIT', 0, ARGV[7])) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('HGET', rows, key) or ''
end
return {commits, found, undo}
