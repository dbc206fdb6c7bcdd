"""Transactions over a server: what is read is compared when the changes are made, in one script.

Nothing is locked and no connection is held meanwhile. If a value has changed since it was read, nothing is changed, and
the operation runs again. Keys of different slots cannot be changed in one step: each slot is committed by itself, in
the order in which the operation has written to them first.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from lmdbresults.errors import StoreClosed, StoreError
from lmdbresults.store.redis.layout import Layout, slot_of
from lmdbresults.store.redis.scanning import read_all, read_range, read_values
from lmdbresults.store.redis.scripts import Scripts
from lmdbresults.store.redis.server import Server, once_name
from lmdbresults.store.transactions import KEEP, Keep, ReadTransaction, WriteTransaction
from lmdbresults.store.values import add_to_counter, deadline_of

__all__ = [
    "FINAL",
    "INTERIM",
    "Reading",
    "Writing",
    "milliseconds",
    "server_time",
    "ttl_of",
]

FINAL, INTERIM = b"F", b"I"
#: Keys that are compared at once after a view, and words of a commit at most: Redis 6 takes 1,048,576.
_COMPARED: Final = 5000
_MOST_WORDS: Final = 1_000_000
#: More milliseconds than a server can add to its clock mean that a record never expires.
_NEVER: Final = 10**15


def milliseconds(ttl: float | None) -> int:
    """Return the ``PX`` of a ttl; 0 for a record that never expires. Raises ValueError.

    A server shows a record during the millisecond of its deadline, and rounds the present time down. So a millisecond
    less lets no record outlive its ttl.
    """
    seconds = deadline_of(ttl, 0.0)
    if not seconds or seconds * 1000 >= _NEVER:
        return 0
    return max(math.floor(seconds * 1000) - 1, 1)


def ttl_of(answer: int) -> float | None:
    """Return the ttl in the answer to PTTL."""
    if answer == -2:
        return None
    return math.inf if answer < 0 else answer / 1000


def server_time(server: Server) -> float:
    """Return the time by the clock of the server."""
    seconds, microseconds = server.call(b"{store}", "TIME")
    return int(seconds) + int(microseconds) / 1e6


class Change(NamedTuple):
    """What a transaction does to a key."""

    value: bytes | None
    """The new value; None: it is deleted."""
    px: int | Keep
    kind: bytes
    """The kind of message; empty for none."""
    is_expiry: bool = False
    """Whether only the deadline changes."""


class Reading(ReadTransaction):
    """What an operation reads, each key once."""

    def __init__(self, server: Server, layout: Layout, scripts: Scripts) -> None:
        self._server = server
        self._layout = layout
        self._scripts = scripts
        self._seen: dict[bytes, bytes | None] = {}
        self._looks = 0
        self._has_ended = False

    def end(self) -> None:
        """Refuse further use."""
        self._has_ended = True

    def _open(self) -> Server:
        if self._has_ended:
            raise StoreClosed("The transaction has ended: use it inside its callback only.")
        return self._server

    def is_consistent(self) -> bool:
        """Return whether there was a moment at which all was as it was read.

        All was read before the first comparison. So what is the same at its comparison was there at that moment, though
        not all is compared at once: other clients of the server would wait for that.
        """
        if self._looks < 2:
            return True
        seen = iter(self._seen.items())
        parts = iter(lambda: dict(islice(seen, _COMPARED)), {})
        return all(_commit(self._server, self._layout, self._scripts, part, {}) for part in parts)

    def get(self, key: bytes) -> bytes | None:
        return self.mget((key,))[0]

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        server, wanted = self._open(), list(keys)
        missing = [key for key in dict.fromkeys(wanted) if key not in self._seen]
        if missing:
            self._looks += 1
            self._seen.update(zip(missing, read_values(server, self._layout, missing), strict=True))
        return [self._seen[key] for key in wanted]

    def ttl(self, key: bytes) -> float | None:
        name = self._layout.name(key)
        return ttl_of(self._open().call(name, "PTTL", name))

    def now(self) -> float:
        return server_time(self._open())

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key, value in read_all(self._open(), self._layout, prefix):
            yield key, self._note(key, value)[:head]

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, value in read_range(self._open(), self._layout, prefix, start, limit):
            yield key, self._note(key, value)[:head]

    def _note(self, key: bytes, value: bytes) -> bytes:
        """Have the value of a key compared in the end, with the one that was read first."""
        self._looks += 1
        return self._seen.setdefault(key, value) or value


class Writing(Reading, WriteTransaction):
    """What an operation reads and changes. Its changes are kept here until they are committed."""

    def __init__(self, server: Server, layout: Layout, scripts: Scripts) -> None:
        super().__init__(server, layout, scripts)
        self._changes: dict[bytes, Change] = {}
        #: Topics that are not changed themselves.
        self._topics: dict[bytes, None] = {}

    def commit(self) -> bool:
        """Make the changes; return False if something that was read is different now."""
        return _commit(self._server, self._layout, self._scripts, self._seen, self._changes, self._topics)

    # -- reading -----------------------------------------------------------------------------------------------------

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        own = {key: change for key in wanted if (change := self._changes.get(key)) and not change.is_expiry}
        rest = iter(super().mget(key for key in wanted if key not in own))
        return [own[key].value if key in own else next(rest) for key in wanted]

    def ttl(self, key: bytes) -> float | None:
        change = self._changes.get(key)
        if change is None or (change.value is not None and isinstance(change.px, Keep)):
            return super().ttl(key)
        self._open()
        if change.value is None and not change.is_expiry:
            return None
        return change.px / 1000 if isinstance(change.px, int) and change.px else math.inf

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        return self.range(prefix, head=head)

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        found = dict(super().scan(prefix))
        for key, change in self._changes.items():
            if not change.is_expiry:
                found.pop(key, None)
                if change.value is not None and key.startswith(prefix):
                    found[key] = change.value
        keys = sorted(key for key in found if key >= start)
        return ((key, found[key][:head]) for key in keys[:limit])

    # -- changing ----------------------------------------------------------------------------------------------------

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        self._open()
        px = milliseconds(ttl)
        if keep_prefix and (self.get(key) or b"").startswith(keep_prefix):
            return False
        former = self._changes.get(key)
        kind = INTERIM if interim and (former is None or former.kind != FINAL) else FINAL
        self._changes[key] = Change(bytes(memoryview(value)), px, kind)
        return True

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        milliseconds(ttl)
        return self.get(key) is None and self.set(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        existed = self.get(key) is not None
        if existed:
            self._changes[key] = Change(None, 0, FINAL)
        return existed

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        self._open()
        self._changes[key] = Change(None, 0, b"")
        self._changes[new_key] = Change(bytes(memoryview(value)), 0, b"")

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        px = ttl if isinstance(ttl, Keep) else milliseconds(ttl)
        present = self.get(key)
        count = add_to_counter(key, b"0" if present is None else present, by)
        former = self._changes.get(key)
        if isinstance(px, Keep) and (present is None or former is not None):
            px = 0 if present is None or former is None else former.px
        self._changes[key] = Change(b"%d" % count, px, FINAL)
        return count

    def expire(self, key: bytes, ttl: float | None) -> bool:
        px = milliseconds(ttl)
        if self.get(key) is None:
            return False
        former = self._changes.get(key)
        self._changes[key] = Change(None, px, b"", is_expiry=True) if former is None else former._replace(px=px)
        return True

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self._open()
        self._topics[topic] = None


# -- the commit --------------------------------------------------------------------------------------------------------


def _commit(
    server: Server,
    layout: Layout,
    scripts: Scripts,
    seen: dict[bytes, bytes | None],
    changes: dict[bytes, Change],
    topics: Iterable[bytes] = (),
) -> bool:
    """Compare and change, one slot after the other; return False at the first that differs."""
    told = dict.fromkeys(topics)
    slots: dict[int, list[bytes]] = {}
    for key in dict.fromkeys((*changes, *told, *seen)):
        slot = slot_of(layout.name(key)) if server.options.kind == "cluster" else 0
        slots.setdefault(slot, []).append(key)
    for keys in slots.values():
        names = [layout.name(key) for key in keys]
        arguments: list[bytes | int] = [layout.channel_prefix, len(names)]
        for key in keys:
            arguments += _read_words(seen, key)
            arguments += _change_words(changes.get(key), key in told)
        if len(names) + len(arguments) > _MOST_WORDS:
            raise StoreError(f"A transaction on a server takes about 200,000 keys, got {len(names)}: split it.")
        if not server.run(scripts.commit, [*names, once_name(names[0])], *arguments):
            return False
    return True


def _read_words(seen: dict[bytes, bytes | None], key: bytes) -> tuple[bytes, ...]:
    if key not in seen:
        return (b"?",)
    value = seen[key]
    return (b"-",) if value is None else (b"=", value)


def _change_words(change: Change | None, is_told: bool) -> tuple[bytes | int, ...]:
    if change is None:
        return (b"?", FINAL if is_told else b"")
    px = b"" if isinstance(change.px, Keep) else change.px
    kind = FINAL if is_told else change.kind
    if change.is_expiry:
        return (b"E", px, kind)
    return (b"-", kind) if change.value is None else (b"=", px, change.value, kind)
