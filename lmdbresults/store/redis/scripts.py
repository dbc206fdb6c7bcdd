"""The steps of single keys and of transactions that must not be divided, in Lua.

A message on the channel of a key begins with "F" for a final value or "I" for an interim one; "=" and the value follow
if that is small. What must happen once although its answer may be lost and asked for again leaves its outcome under
a name of its own, ``once``, for longer than it may be asked for again. While the slot moves in a Cluster, scripts are
run without that name: the server refuses keys of which some exist here and some do not. Steps that change nothing the
second time have a form ``AGAIN``, which returns what the first time has returned, as far as the values tell.
"""

from typing import Final

from lmdbresults.store.redis.chord_scripts import CHORD_SCRIPTS, CHORD_SCRIPTS_AGAIN
from lmdbresults.store.redis.server import Script

__all__ = ["ADD", "COMMIT", "DELETE", "EXPIRE", "INCREMENT", "REPLACE", "SET", "Scripts"]

#: Bytes of a value that go with its message at most.
_MOST_SENT: Final = 2048
#: Functions that other scripts begin with. ``tell`` publishes on the channel of a key.
PRELUDE: Final = """
local function tell(channels, name, kind, value)
  if value and #value <= MOST_SENT then kind = kind .. '=' .. value end
  redis.call('PUBLISH', channels .. name, kind)
end
local function put(name, value, px)
  if px == '0' then return redis.call('SET', name, value) end
  return redis.call('SET', name, value, 'PX', px)
end
local function outcome(once) return once and redis.call('HGET', once, 'is') end
local function note(once, what)
  if not once then return end
  redis.call('HSET', once, 'is', what)
  redis.call('PEXPIRE', once, OUTCOME_KEPT)
end
"""

#: Stores ARGV[2] for ARGV[3] and publishes it.
_STORE: Final = """
put(KEYS[1], ARGV[2], ARGV[3])
tell(ARGV[1], KEYS[1], ARGV[5], ARGV[2])
return 1
"""
_IS_KEPT: Final = "ARGV[4] ~= '' and redis.call('GETRANGE', KEYS[1], 0, #ARGV[4] - 1) == ARGV[4]"
#: KEYS: name. ARGV: channels, value, px (0: never expires), prefix that keeps the present value, kind of message.
SET: Final = f"if {_IS_KEPT} then return 0 end" + _STORE
#: A value that is kept may be the one that was stored the first time.
SET_AGAIN: Final = f"if {_IS_KEPT} then return redis.call('GET', KEYS[1]) == ARGV[2] and 1 or 0 end" + _STORE

#: KEYS: name, once. ARGV: channels, value, px.
ADD: Final = """
if outcome(KEYS[2]) then return 1 end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
put(KEYS[1], ARGV[2], ARGV[3])
tell(ARGV[1], KEYS[1], 'F', ARGV[2])
note(KEYS[2], 1)
return 1
"""

#: KEYS: name, once. ARGV: channels.
DELETE: Final = """
if outcome(KEYS[2]) then return 1 end
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
tell(ARGV[1], KEYS[1], 'F')
note(KEYS[2], 1)
return 1
"""

#: KEYS: name. ARGV: px.
EXPIRE: Final = """
if ARGV[1] ~= '0' then return redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])
"""

#: KEYS: name, once. ARGV: channels, by, px or "" to keep the deadline. Returns nil for a value that is not a counter.
INCREMENT: Final = """
local before = outcome(KEYS[2])
if before then return before end
local sum = redis.pcall('INCRBY', KEYS[1], ARGV[2])
if type(sum) == 'table' then return false end
sum = redis.call('GET', KEYS[1])
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[1])
elseif ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
tell(ARGV[1], KEYS[1], 'F', sum)
note(KEYS[2], sum)
return sum
"""

#: Sets a value if the present one is as expected.
#: KEYS: name. ARGV: channels, value, px, "=" or "" (absent), kind of message, expected.
REPLACE: Final = (
    """
local present = redis.call('GET', KEYS[1])
if ARGV[4] == '=' and present ~= ARGV[6] or ARGV[4] == '' and present then return 0 end
"""
    + _STORE
)
#: The present value may be the one that was stored the first time.
REPLACE_AGAIN: Final = "if redis.call('GET', KEYS[1]) == ARGV[2] then return 1 end" + REPLACE

#: Compares what a transaction has read with what there is; if it is the same, makes its changes. Returns 0 otherwise.
#: KEYS: names, once. ARGV: channels, number of names, then for each name what was read (``?`` for nothing, ``-`` for
#: no value, ``=`` and the value), what to do (``?`` nothing, ``-`` delete, ``E`` and px, ``=``, px or "", value), and
#: the kind of message or "".
COMMIT: Final = """
local count = tonumber(ARGV[2])
local once = KEYS[count + 1]
if outcome(once) then return 1 end
local at, steps = 3, {}
local function word()
  at = at + 1
  return ARGV[at - 1]
end
for i = 1, count do
  local read = word()
  if read ~= '?' then
    local present = redis.call('GET', KEYS[i])
    if read == '-' then
      if present then return 0 end
    elseif present ~= word() then return 0 end
  end
  local step = {word()}
  if step[1] == 'E' then step[2] = word() elseif step[1] == '=' then step[2], step[3] = word(), word() end
  step[4] = word()
  steps[i] = step
end
local changes = false
for i, step in ipairs(steps) do
  local name, what = KEYS[i], step[1]
  if what == '-' then redis.call('DEL', name)
  elseif what == 'E' and step[2] == '0' then redis.call('PERSIST', name)
  elseif what == 'E' then redis.call('PEXPIRE', name, step[2])
  elseif what == '=' and step[2] == '' then redis.call('SET', name, step[3], 'KEEPTTL')
  elseif what == '=' then put(name, step[3], step[2]) end
  if step[4] ~= '' then tell(ARGV[1], name, step[4], step[3]) end
  changes = changes or what ~= '?'
end
if changes then note(once, 1) end
return 1
"""


class Scripts:
    """The scripts as a deployment runs them: ``publish`` is PUBLISH, or SPUBLISH on a Cluster that has it.

    ``kept`` is for how many seconds outcomes are kept.
    """

    def __init__(self, publish: str, kept: float) -> None:
        prelude = PRELUDE.replace("OUTCOME_KEPT", str(round(1000 * kept))).replace("MOST_SENT", str(_MOST_SENT))

        def whole(source: str) -> str:
            return (prelude + source).replace("'PUBLISH'", f"'{publish}'")

        def script(source: str, again: str | None = None) -> Script:
            return Script(whole(source), None if again is None else whole(again))

        self.set = script(SET, SET_AGAIN)
        self.add = script(ADD)
        self.delete = script(DELETE)
        self.expire = script(EXPIRE)
        self.increment = script(INCREMENT)
        self.replace = script(REPLACE, REPLACE_AGAIN)
        self.commit = script(COMMIT)
        #: Those of chords, by their sources.
        self.chords = {source: script(source, CHORD_SCRIPTS_AGAIN.get(source)) for source in CHORD_SCRIPTS}
