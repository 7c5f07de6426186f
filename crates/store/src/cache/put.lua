-- Keeps a copy. KEYS: the copy. ARGV: the time by this server's clock before which the row was surely not read, for how
-- many milliseconds after that it may be used, its version, its row.
-- The age is taken by one clock, so a request that was long under way keeps nothing too long.
local time = redis.call('TIME')
local age = time[1] * 1000000 + time[2] - ARGV[1]
local left = math.floor(ARGV[2] - age / 1000)
local known = redis.call('HGET', KEYS[1], 'version')
if age < 0 or left <= 0 or (known and tonumber(known) > tonumber(ARGV[3])) then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'row', ARGV[4])
redis.call('PEXPIRE', KEYS[1], left)
return 1
