"""A worker process to be killed: it writes to a store and keeps a history of its operations and their outcome.

Each worker owns its keys, so its history says what they hold. Only the operation during which it was killed may have
happened or not. The next process of the same worker finds out, and checks all other keys.
"""

import json
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmdbresults import LMDBStore, StoreFull
from lmdbresults.store import WriteTransaction

SHARED = b"shared counter"
KEYS = 40
SIZES = (0, 1, 20, 300, 300, 300, 3_000, 16_400, 70_000, 300_000)

Operation = list[Any]


def value(owner: int, turn: int, size: int) -> bytes:
    """Return the value that a worker stores in a turn."""
    mark = b"%d/%d/%d;" % (owner, turn, size)
    return (mark * (size // len(mark) + 1))[:size]


class History:
    """The operations of a worker, in a file that survives it, and what its keys must hold."""

    def __init__(self, path: Path, owner: int) -> None:
        self.owner = owner
        self.turn = self.acknowledged = self.counted = self.perhaps_counted = 0
        #: Key to value (bytes) or count (int).
        self.expected: dict[bytes, Any] = {}
        #: The operation whose outcome is not known.
        self.open: Operation | None = None
        for entry in _entries(path):
            self._follow(entry)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, entry: Operation | str) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        self._follow(entry)

    def _follow(self, entry: Operation | str) -> None:
        if isinstance(entry, list):
            self.open = entry
            self.turn += 1
            return
        assert self.open is not None
        if entry == "done":
            self.expected.update(self.after(self.open))
            self.counted += self.open[0] == "count"
            self.acknowledged += 1
        elif entry == "perhaps":
            self.perhaps_counted += 1
        self.open = None

    def after(self, operation: Operation) -> dict[bytes, Any]:
        """Return the keys of an operation with their values after it."""
        kind, names, turn, size = operation
        keys = [b"%d:%s" % (self.owner, name.encode()) for name in names]
        if kind in ("set", "block", "update"):
            return {key: value(self.owner, turn, size) for key in keys}
        if kind == "add":
            return {key: value(self.owner, turn, size) for key in keys if self.expected.get(key) is None}
        if kind == "delete":
            return dict.fromkeys(keys)
        if kind == "incr":
            return {key: (self.expected.get(key) or 0) + turn for key in keys}
        return {}

    def settle(self, store: LMDBStore) -> None:
        """Find out whether the interrupted operation happened; assert that all else is as acknowledged."""
        if self.open is not None and self.open[0] == "count":
            self.add("perhaps")
        elif self.open is not None:
            changes = self.after(self.open)
            happened = all(store.get(key) == _bytes(wanted) for key, wanted in changes.items())
            self.add("done" if happened else "undone")
        held = {key: wanted for key, wanted in self.expected.items() if wanted is not None}
        for key, wanted in held.items():
            found = store.get(key)
            assert found == _bytes(wanted), f"{key!r} should hold {_short(wanted)}, and holds {_short(found)}"
        others = {key for key, _ in store.scan(b"%d:" % self.owner)} - held.keys()
        assert not others, f"{others} should have been deleted"


def _entries(path: Path) -> Iterator[Operation | str]:
    """Return the entries of a history. An incomplete last line does not count."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return (json.loads(line) for line in lines)


def _bytes(wanted: Any) -> bytes | None:
    return b"%d" % wanted if isinstance(wanted, int) else wanted


def _short(wanted: Any) -> str:
    return f"{_bytes(wanted)!r:.40}" if wanted is not None else "nothing"


def work(store: LMDBStore, history: History, seed: int, stop: mmap.mmap) -> None:
    """Write until the shared byte ``stop`` is set."""
    history.settle(store)
    chance = random.Random(seed)
    while not stop[0]:
        operation = choose(chance, history.turn)
        history.add(operation)
        try:
            perform(store, history.owner, operation)
        except StoreFull:
            history.add("undone")
        else:
            history.add("done")
    history.settle(store)


def choose(chance: random.Random, turn: int) -> Operation:
    kinds = ["set"] * 8 + ["delete"] * 4 + ["add"] * 3 + ["incr"] * 2 + ["count"] * 2
    kind = chance.choice([*kinds, "block", "update", "pass by", "sweep", "read"])
    if kind == "incr":
        return [kind, ["count"], turn, 0]
    names = [f"{chance.randrange(KEYS)}" for _ in range(3 if kind in ("block", "update", "read") else 1)]
    return [kind, names, turn, chance.choice(SIZES)]


def perform(store: LMDBStore, owner: int, operation: Operation) -> None:
    kind, names, turn, size = operation
    keys = [b"%d:%s" % (owner, name.encode()) for name in names]
    new = value(owner, turn, size)

    def set_all(txn: WriteTransaction) -> None:
        for key in keys:
            txn.set(key, new)

    if kind == "block":
        with store.write() as txn:
            set_all(txn)
    elif kind == "update":
        store.update(set_all)
    elif kind == "read":
        with store.read() as txn:
            assert txn.mget(keys) == [txn.get(key) for key in keys]
    elif kind == "count":
        store.incr(SHARED)
    elif kind == "pass by":  # expires at once, for writers and sweeps to remove
        store.set(b"passing %d:%d" % (owner, turn % KEYS), new, ttl=1e-3)
    elif kind == "sweep":
        store.sweep(limit=50)
    else:
        argument = {"set": (new,), "add": (new,), "incr": (turn,), "delete": ()}[kind]
        getattr(store, kind)(keys[0], *argument)


def totals(histories: list[History]) -> tuple[int, int, int]:
    """Return the number of acknowledged operations, and the least and greatest possible shared counter."""
    counted = sum(history.counted for history in histories)
    perhaps = sum(history.perhaps_counted for history in histories)
    return sum(history.acknowledged for history in histories), counted, counted + perhaps
