"""The steps of chords in Lua. A chord is two hashes in one slot.

The head, under the key of the chord, has the fields run, state, size, added, additions, returned, token and owner (see
`lmdbresults.store.chord_records.Head`). Its records, under ``<key>.records``, are the body, the header, the parts and
the additions of its runs; each field begins with its run. So a part costs the same in a header of 10 and of 100,000,
and a run is read with one command. An empty field makes the hash exist from the beginning: while a slot moves, a server
refuses keys of which some exist and some do not.

The claims of all chords are one sorted set, by the time at which they were entered. In a Cluster it lies in another
slot. So a chord is entered before it is claimed: a script that would claim it returns "enter" and does nothing, unless
its arguments say that this was done. No claim can be missing in the set, whatever dies; a chord that is in the set but
not claimed is removed later.

KEYS begin with the head and the records; then comes the set of claims, if it is in the same slot. ARGV begin with
three words: whether the claims are among the KEYS ("keys"), entered ("entered") or not yet ("no"), the key of the chord
as it stands in the set, and the channels.
"""

from typing import Final

__all__ = [
    "ADD_MORE",
    "ADOPT",
    "CHORD_SCRIPTS",
    "CHORD_SCRIPTS_AGAIN",
    "CLEAR",
    "END",
    "OPEN",
    "RELEASE",
    "RETURN_PART",
    "SET_SIZE",
    "TAKE_OVER",
]

_PRELUDE: Final = """
local function last(ttl_head, ttl_records)
  redis.call('PEXPIRE', KEYS[1], ttl_head)
  redis.call('PEXPIRE', KEYS[2], ttl_records)
end
local function begin(run, size)
  redis.call('HDEL', KEYS[1], 'size')
  redis.call('HSET', KEYS[1], 'run', run, 'state', 'open', 'added', 0, 'additions', 0, 'returned', 0,
             'token', '', 'owner', '')
  if size ~= '' then redis.call('HSET', KEYS[1], 'size', size) end
  redis.call('HSET', KEYS[2], run .. '.', '')
end
local function claim(state, token, owner)
  redis.call('HSET', KEYS[1], 'state', state, 'token', token, 'owner', owner)
  if ARGV[1] == 'keys' then redis.call('ZADD', KEYS[3], redis.call('TIME')[1], ARGV[2]) end
end
"""

#: More ARGV: run, size or "", milliseconds for head and records, then pairs of a field and its value.
#: Returns nothing, or run and owner of the former run, whose records the caller may have to delete.
OPEN: Final = (
    _PRELUDE
    + """
local former = redis.call('HMGET', KEYS[1], 'run', 'state', 'owner')
if former[1] == ARGV[4] then return {} end
if former[2] == 'open' then redis.call('DEL', KEYS[2]) end
begin(ARGV[4], ARGV[5])
for i = 8, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[4] .. '.' .. ARGV[i], ARGV[i + 1]) end
last(ARGV[6], ARGV[7])
if not former[1] or former[2] == 'open' then return {} end
return {former[1], former[3]}
"""
)

#: More ARGV as those of OPEN. Returns whether there was no chord.
ADOPT: Final = (
    _PRELUDE
    + """
local head = redis.call('HMGET', KEYS[1], 'run', 'state', 'size')
local run, size = head[1] or ARGV[4], ARGV[5]
if head[1] and head[2] ~= 'open' then return 0 end
if not head[1] then begin(run, size)
elseif size ~= '' then redis.call('HSET', KEYS[1], 'size', math.max(size, tonumber(head[3] or 0))) end
for i = 8, #ARGV, 2 do redis.call('HSETNX', KEYS[2], run .. '.' .. ARGV[i], ARGV[i + 1]) end
last(ARGV[6], ARGV[7])
return head[1] and 0 or 1
"""
)

#: More ARGV: run and token and owner if they are needed, size, "1" to keep a larger size, milliseconds for head and
#: records.
#: Returns "enter", or the run and whether it was claimed.
SET_SIZE: Final = (
    _PRELUDE
    + """
local head = redis.call('HMGET', KEYS[1], 'run', 'state', 'size', 'added', 'returned', 'token')
local run, size, returned = head[1], tonumber(ARGV[7]), tonumber(head[5] or 0)
if run and head[6] == ARGV[5] then return {run, 1} end
local is_open = run and head[2] == 'open'
if not is_open then run, returned = ARGV[4], 0
elseif ARGV[8] == '1' then size = math.max(size, tonumber(head[3] or 0)) end
local is_complete = returned > 0 and returned >= size + tonumber(head[4] or 0)
if is_complete and ARGV[1] == 'no' then return 'enter' end
if is_open then redis.call('HSET', KEYS[1], 'size', size) else begin(run, size) end
last(ARGV[9], ARGV[10])
if is_complete then claim('claimed', ARGV[5], ARGV[6]) end
return {run, is_complete and 1 or 0}
"""
)

#: More ARGV: id, count, milliseconds for head and records. Returns whether a chord is open.
ADD_MORE: Final = (
    _PRELUDE
    + """
local head = redis.call('HMGET', KEYS[1], 'run', 'state', 'additions')
if head[2] ~= 'open' then return 0 end
local field = head[1] .. '.more.' .. ARGV[4]
local former = redis.call('HGET', KEYS[2], field)
local number, less = head[3], 0
if former then number, less = string.match(former, '^(%d+):(%d+)$')
else redis.call('HINCRBY', KEYS[1], 'additions', 1) end
redis.call('HSET', KEYS[2], field, number .. ':' .. ARGV[5])
redis.call('HINCRBY', KEYS[1], 'added', ARGV[5] - less)
last(ARGV[6], ARGV[7])
return 1
"""
)

#: The last of the KEYS is that of the result, if there is one.
#: More ARGV: run and token and owner if they are needed, size or "", milliseconds for head and records, field of the
#: part, "F" if it has failed or "S", its place and id, its value; then of the result: "" for none, "=" if its value is
#: that of the part, or "V"; its px, the prefix that keeps the present value, its value.
#: Returns "enter", "unknown", "late", {"held", run, token, owner, state}, or {"part", run, counts, claimed}.
RETURN_PART: Final = (
    _PRELUDE
    + """
local function store_result()
  if ARGV[14] == '' then return end
  local name, prefix, value = KEYS[#KEYS], ARGV[16], ARGV[13]
  if ARGV[14] == 'V' then value = ARGV[17] end
  if prefix ~= '' and redis.call('GETRANGE', name, 0, #prefix - 1) == prefix then return end
  put(name, value, ARGV[15])
  tell(ARGV[3], name, 'F', value)
end
local head = redis.call('HMGET', KEYS[1], 'run', 'state', 'size', 'added', 'returned', 'token', 'owner')
local run, state, size = head[1], head[2], head[3] or ARGV[7]
if not run and size == '' or state == 'ended' or state == 'claimed' then
  store_result()
  if not run then return 'unknown' elseif state == 'ended' then return 'late' end
  if head[6] == ARGV[5] then return {'part', run, 1, 1} end
  return {'held', run, head[6], head[7], state}
end
local field = (run or ARGV[4]) .. '.' .. ARGV[10]
local former = run and redis.call('HGET', KEYS[2], field)
local number = tonumber(head[5] or 0)
local returned = number + (former and 0 or 1)
local is_complete = size ~= '' and returned >= size + (head[4] or 0)
if is_complete and ARGV[1] == 'no' then return 'enter' end
store_result()
if not run then
  run = ARGV[4]
  begin(run, size)
elseif not head[3] and size ~= '' then redis.call('HSET', KEYS[1], 'size', size) end
if former then
  if ARGV[11] == 'S' and string.sub(former, 1, 1) == 'F' then
    number = string.match(former, '^F(%d+):')
    redis.call('HSET', KEYS[2], field, 'S' .. number .. ':' .. ARGV[12] .. ARGV[13])
  end
else
  redis.call('HSET', KEYS[2], field, ARGV[11] .. number .. ':' .. ARGV[12] .. ARGV[13])
  redis.call('HSET', KEYS[1], 'returned', returned)
end
last(ARGV[8], ARGV[9])
if is_complete then claim('claimed', ARGV[5], ARGV[6]) end
return {'part', run, former and 0 or 1, is_complete and 1 or 0}
"""
)

#: More ARGV: former token, new token, owner. Returns run and state, or nothing if the claim has changed hands.
TAKE_OVER: Final = (
    _PRELUDE
    + """
local head = redis.call('HMGET', KEYS[1], 'run', 'state', 'token')
if head[3] ~= ARGV[4] and head[3] ~= ARGV[5] then return {} end
claim(head[2], ARGV[5], ARGV[6])
return {head[1], head[2]}
"""
)

#: More ARGV: token. Returns whether the claim was still held.
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '')
return 1
"""

#: More ARGV: token, milliseconds for the head, "1" if this is the last step, fields. Returns whether the claim was
#: held.
END: Final = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'ended')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
for i = 7, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
if ARGV[6] == '1' and ARGV[1] == 'keys' then redis.call('ZREM', KEYS[3], ARGV[2]) end
return 1
"""

#: More ARGV: run, fields. Returns whether the run is over.
CLEAR: Final = """
if redis.call('HGET', KEYS[1], 'run') == ARGV[4] then return 0 end
for i = 5, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return 1
"""

CHORD_SCRIPTS: Final = (OPEN, ADOPT, SET_SIZE, ADD_MORE, RETURN_PART, TAKE_OVER, RELEASE, END, CLEAR)
#: What runs instead once an answer may have been lost: a part that is there already may be the one of the first time.
CHORD_SCRIPTS_AGAIN: Final = {RETURN_PART: RETURN_PART.replace("former and 0 or 1, is", "1, is")}
