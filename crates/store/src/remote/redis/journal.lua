-- The journal of a shard (docs/store-format.md). KEYS: prefix. ARGV: what to do, then as said there.
local prefix, act = KEYS[1], ARGV[1]
local life, entries = prefix .. ':life', prefix .. ':journal'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Whether the adopter of this token still keeps the others out.
local function adopts()
  return redis.call('GET', prefix .. ':adopting') == ARGV[2]
end

-- Rows from an argument on: table, key, row.
local function put(from)
  for at = from, #ARGV, 3 do
    local rows = prefix .. ':' .. ARGV[at]
    if redis.call('HSET', rows, ARGV[at + 1], ARGV[at + 2]) == 1 then
      redis.call('ZADD', rows .. ':keys', 0, ARGV[at + 1])
    end
  end
end

-- The first commit of a run: its number, server, where the target is, its entry, and rows.
local function begin(from)
  local bytes = redis.call('HGET', life, 'bytes') or '0'
  redis.call('HSET', life, 'run', ARGV[from], 'server', ARGV[from + 1], 'landed', ARGV[from + 2], 'bytes', bytes)
  redis.call('HSETNX', life, 'landed_bytes', bytes)
  put(from + 4)
  local position = redis.call('INCR', prefix .. ':commits')
  local total = redis.call('HINCRBY', life, 'bytes', #ARGV[from + 3])
  redis.call('XADD', entries, text(position) .. '-0', 'entry', ARGV[from + 3], 'total', total, 'at', text(now()))
  redis.call('HDEL', life, 'filling')
  redis.call('DEL', prefix .. ':adopting')
end

if act == 'life' then
  -- Token and length of the lease to land, 0 for none; key of the generation.
  local leads = '0'
  if ARGV[3] ~= '0' then
    local lander = redis.call('GET', prefix .. ':lander')
    if not lander or lander == ARGV[2] then
      redis.call('SET', prefix .. ':lander', ARGV[2], 'PX', ARGV[3])
      leads = '1'
    end
  end
  local is = redis.call('HMGET', life, 'run', 'server', 'landed', 'bytes', 'landed_bytes')
  local position = redis.call('GET', prefix .. ':commits') or '0'
  local lag = 0
  if is[3] and tonumber(position) > tonumber(is[3]) then
    local next = redis.call('XRANGE', entries, text(is[3] + 1) .. '-0', '+', 'COUNT', 1)
    if next[1] then
      lag = now() - next[1][2][6]
    end
  end
  local rows = redis.call('EXISTS', prefix .. ':meta') == 1 and redis.call('HEXISTS', life, 'filling') == 0
  return {
    is[1] or '', is[2] or '', is[3] or '0', text((is[4] or 0) - (is[5] or 0)), position, text(math.max(lag, 0)),
    tostring(redis.call('HLEN', prefix .. ':aside')), leads, rows and '1' or '0',
    redis.call('HGET', prefix .. ':meta', ARGV[4]) or '', text(now())
  }
elseif act == 'entries' then
  -- Position after which, and how many bytes. Answers positions, totals and entries by turns.
  local found, size, from = {}, 0, ARGV[2] + 1
  while size < tonumber(ARGV[3]) do
    local some = redis.call('XRANGE', entries, text(from) .. '-0', '+', 'COUNT', 16)
    for _, entry in ipairs(some) do
      local position = string.match(entry[1], '^%d+')
      found[#found + 1] = position
      found[#found + 1] = entry[2][4]
      found[#found + 1] = entry[2][2]
      size, from = size + #entry[2][2], position + 1
      if size >= tonumber(ARGV[3]) then
        break
      end
    end
    if #some < 16 then
      break
    end
  end
  return found
elseif act == 'landed' then
  -- Run, position and total of the last entry that has landed.
  if redis.call('HGET', life, 'run') ~= ARGV[2] then
    return 0
  end
  if tonumber(ARGV[3]) > tonumber(redis.call('HGET', life, 'landed')) then
    redis.call('HSET', life, 'landed', ARGV[3])
  end
  if tonumber(ARGV[4]) > tonumber(redis.call('HGET', life, 'landed_bytes')) then
    redis.call('HSET', life, 'landed_bytes', ARGV[4])
  end
  redis.call('XTRIM', entries, 'MINID', text(ARGV[3] + 1) .. '-0')
  return 1
elseif act == 'aside' then
  return redis.call('HGETALL', prefix .. ':aside')
elseif act == 'put aside' then
  -- Names, and rows or '' to take them back.
  for at = 2, #ARGV, 2 do
    if ARGV[at + 1] == '' then
      redis.call('HDEL', prefix .. ':aside', ARGV[at])
    else
      redis.call('HSET', prefix .. ':aside', ARGV[at], ARGV[at + 1])
    end
  end
  return 1
elseif act == 'begin' then
  -- Token, and for how long.
  local adopter = redis.call('GET', prefix .. ':adopting')
  if adopter and adopter ~= ARGV[2] then
    return 0
  end
  redis.call('SET', prefix .. ':adopting', ARGV[2], 'PX', ARGV[3])
  return 1
elseif not adopts() then
  return 0
elseif act == 'renew' then
  -- Token, the run until then, then how it begins.
  if redis.call('HGET', life, 'run') ~= ARGV[3] then
    return 0
  end
  begin(4)
  return 1
elseif act == 'clear' then
  -- Token, and all names.
  for at = 3, #ARGV do
    redis.call('UNLINK', prefix .. ':' .. ARGV[at])
  end
  -- Rows that an adopter left behind are not a store's.
  redis.call('HSET', life, 'filling', '1')
  return 1
elseif act == 'fill' then
  -- Token, for how long it goes on, rows.
  redis.call('PEXPIRE', prefix .. ':adopting', ARGV[3])
  put(4)
  return 1
elseif act == 'open' then
  -- Token, then how it begins; it goes on from where the target is.
  redis.call('SET', prefix .. ':commits', ARGV[5])
  begin(3)
  return 1
end
