-- Writes all of a batch, or nothing if another batch was first.
-- KEYS: prefix. ARGV: the count of commits that the batch was made on, the primary's name or '', then for each row
-- its table, its key, and the row or '' to remove it.
local prefix = KEYS[1]
local commits = redis.call('GET', prefix .. ':commits') or '0'
if commits ~= ARGV[1] then
  return 0
end
-- While somebody reads one moment, what the rows were before is kept for them.
local watched = redis.call('EXISTS', prefix .. ':watch') == 1
if not watched then
  redis.call('DEL', prefix .. ':undo')
end
for at = 3, #ARGV, 3 do
  local rows = prefix .. ':' .. ARGV[at]
  local key, row = ARGV[at + 1], ARGV[at + 2]
  if watched then
    local old = redis.call('HGET', rows, key)
    redis.call('RPUSH', prefix .. ':undo', ARGV[at], key, old or '')
  end
  if row == '' then
    redis.call('HDEL', rows, key)
    redis.call('ZREM', rows .. ':keys', key)
  elseif redis.call('HSET', rows, key, row) == 1 then
    redis.call('ZADD', rows .. ':keys', 0, key)
  end
end
if ARGV[2] ~= '' then
  redis.call('SET', prefix .. ':primary', ARGV[2])
end
redis.call('INCR', prefix .. ':commits')
return 1
