-- Writes all of a batch, or nothing if another batch was first.
-- KEYS: prefix. ARGV: the count of commits that the batch was made on, the primary's name or '', the run of the journal
-- or '', its entry for this batch, how many bytes of entries may wait to land, then for each row its table, its key, and
-- the row or '' to remove it.
-- Answers 1 if it is done, 0 if another was first, 2 if it is another run, 3 if too much waits.
local prefix = KEYS[1]
local commits = redis.call('GET', prefix .. ':commits') or '0'
local life = prefix .. ':life'
if ARGV[3] ~= '' then
  if redis.call('HGET', life, 'run') ~= ARGV[3] then
    return 2
  end
  local waiting = redis.call('HGET', life, 'bytes') - redis.call('HGET', life, 'landed_bytes')
  if waiting > 0 and waiting + #ARGV[4] > tonumber(ARGV[5]) then
    return 3
  end
end
if commits ~= ARGV[1] then
  return 0
end
-- While somebody reads one moment, what the rows were before is kept for them.
local watched = redis.call('EXISTS', prefix .. ':watch') == 1
if not watched then
  redis.call('DEL', prefix .. ':undo')
end
for at = 6, #ARGV, 3 do
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
local position = redis.call('INCR', prefix .. ':commits')
if ARGV[3] ~= '' then
  local now = redis.call('TIME')
  local total = redis.call('HINCRBY', life, 'bytes', #ARGV[4])
  local at = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('XADD', prefix .. ':journal', string.format('%.0f-0', position), 'entry', ARGV[4], 'total', total, 'at', at)
end
return 1
