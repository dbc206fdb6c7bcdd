"""A store of lmdbresults as a side of a copy, whichever engine keeps it."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from lmdbresults.copying.items import (
    CHORD_PREFIX,
    CLAIMS,
    GROUP,
    PREFIXES,
    RESULT,
    VALUE,
    Item,
    OpenChord,
    same_deadline,
    wins,
)
from lmdbresults.copying.sides import Merged, Source, Target, batched, overtaken
from lmdbresults.errors import RecordDamaged
from lmdbresults.store.base import Listing, Measurable, Replacing, Store, WriteTransaction
from lmdbresults.store.chord_records import CLAIMED, OPEN, Head
from lmdbresults.store.chords import Claim, hand_over

__all__ = ["StoreSource", "StoreTarget"]

#: Begins the keys of queues, whose messages are moved by ``celery migrate``.
_QUEUES: Final = b"queue-"
#: How often a batch is compared again with what other processes have written meanwhile.
_ROUNDS: Final = 10


class StoreSource(Source):
    """A store to read from."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def estimate(self) -> int | None:
        stats = self._store.stats() if isinstance(self._store, Measurable) else None
        count = getattr(stats, "records", None) or getattr(stats, "keys", None)  # a server counts keys of all kinds
        return None if count is None else int(count)

    def batches(self, size: int) -> Iterator[list[Item]]:
        for keys in map(list, map(dict.fromkeys, batched(self._keys(), size))):
            yield [_item(key, *found) for key, found in zip(keys, _found(self._store, keys), strict=True) if found]

    def _keys(self) -> Iterator[bytes]:
        """Yield the keys of items."""
        has_queues = False
        try:
            for key in self._all_keys():
                if key.startswith(_QUEUES):
                    has_queues = True
                elif not key.startswith(CHORD_PREFIX):
                    yield key
        except RecordDamaged as error:
            self.problems.append(str(error))
        if has_queues:
            self.left_out.append("Queues and messages are not copied: `celery migrate SOURCE DESTINATION` moves them.")

    def _all_keys(self) -> Iterator[bytes]:
        if isinstance(self._store, Listing):  # a key that comes twice is copied twice
            return self._store.keys()
        return (key for key, _ in self._store.scan(head=0))

    def chords(self) -> Iterator[OpenChord]:
        chords = self._store.chords
        for key, head in chords.in_flight(CHORD_PREFIX):
            (ttl,) = self._store.ttls([key])
            if head.state == OPEN and ttl is not None:
                run = chords.read_run(Claim(key, head.run, ""))
                size = None if head.size is None else head.size + head.added
                yield OpenChord(key[len(CHORD_PREFIX) :], size, run, time.time() + ttl)
            elif head.state == CLAIMED:
                name = key[len(CHORD_PREFIX) :].decode(errors="backslashreplace")
                self.left_out.append(f"chord {name} is complete: a worker of the source sends its body. Let it.")

    def close(self) -> None:
        self._store.close()


class StoreTarget(Target):
    """A store to write to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.problems = []

    def merge(self, items: Sequence[Item], *, dry_run: bool = False) -> Merged:
        if isinstance(self._store, Replacing):
            return self._merge_in_rounds(items, self._store, dry_run)
        if dry_run:
            return _compare(items, _found(self._store, [item.key for item in items]))[0]
        return self._store.update(partial(_merge, items))

    def _merge_in_rounds(self, items: Sequence[Item], store: Replacing, dry_run: bool) -> Merged:
        """Compare with what a server has, and write what is newer; again for what was written to meanwhile."""
        total, left = Merged(), list(items)
        for _ in range(_ROUNDS):
            merged, writes = _compare(left, _found(self._store, [item.key for item in left]))
            done = [True] * len(writes)
            if writes and not dry_run:
                done = store.replace_many([(item.key, present, item.value, item.ttl()) for item, present in writes])
            left = [item for (item, _), is_written in zip(writes, done, strict=True) if not is_written]
            total += merged._replace(written=merged.written - len(left))
            if not left:
                return total
        self.problems += overtaken(left)
        return total

    def read(self, items: Sequence[Item]) -> list[Item | None]:
        found = _found(self._store, [item.key for item in items])
        return [
            None if each is None else item._replace(value=each[0], deadline=each[1])
            for item, each in zip(items, found, strict=True)
        ]

    def add_chord(self, chord: OpenChord) -> bool:
        ttl = None if chord.deadline == math.inf else max(chord.deadline - time.time(), 1.0)
        return hand_over(self._store.chords, CHORD_PREFIX + chord.id, chord.run, chord.size, ttl, CLAIMS)

    def lacking(self, chords: Iterable[OpenChord]) -> Iterator[str]:
        heads = dict(self._store.chords.in_flight(CHORD_PREFIX))
        for chord in chords:
            key = CHORD_PREFIX + chord.id
            problem = self._lack(key, heads.get(key), chord)
            if problem is not None and not self._store.chords.has_ended(key):
                yield f"chord {chord.id.decode(errors='backslashreplace')}: {problem}"

    def _lack(self, key: bytes, head: Head | None, chord: OpenChord) -> str | None:
        """Return what a chord lacks here; None if it has all, or is beyond waiting for parts."""
        if head is None:
            return "it is missing"
        if head.state != OPEN:
            return None
        run = self._store.chords.read_run(Claim(key, head.run, ""))
        present = {(part.place, part.id): part.value for part in run.parts}
        if any((part.place, part.id) not in present for part in chord.run.parts):
            return f"of {len(chord.run.parts)} parts that have returned, some are missing"
        if any(present[part.place, part.id] != part.value and not part.has_failed for part in chord.run.parts):
            return "the value of a part differs"
        if (run.body, run.header) != (chord.run.body, chord.run.header):
            return "its body or header differs"
        size = None if head.size is None else head.size + head.added
        return "it waits for fewer parts" if (size or 0) < (chord.size or 0) else None

    def close(self) -> None:
        self._store.close()


def _found(store: Store, keys: Sequence[bytes]) -> list[tuple[bytes, float] | None]:
    """Return the values of keys and when they expire."""
    values, ttls, now = store.mget(keys), store.ttls(keys), time.time()
    return [
        None if value is None or ttl is None else (value, now + ttl) for value, ttl in zip(values, ttls, strict=True)
    ]


def _item(key: bytes, value: bytes, deadline: float) -> Item:
    for kind in (RESULT, GROUP):
        if key.startswith(PREFIXES[kind]):
            return Item(kind, key[len(PREFIXES[kind]) :], value, deadline)
    return Item(VALUE, key, value, deadline)


def _compare(
    items: Sequence[Item], present: Sequence[tuple[bytes, float] | None]
) -> tuple[Merged, list[tuple[Item, bytes | None]]]:
    """Return how many items are newer, the same and older than what is there; and the newer ones with what is there."""
    writes: list[tuple[Item, bytes | None]] = []
    same = kept = 0
    for item, found in zip(items, present, strict=True):
        ttl = item.ttl()
        if ttl is not None and ttl <= 0:
            continue
        other = None if found is None else item._replace(value=found[0], deadline=found[1])
        if other is not None and other.value == item.value and same_deadline(other.deadline, item.deadline):
            same += 1
        elif other is not None and not wins(item, other):
            kept += 1
        else:
            writes.append((item, None if found is None else found[0]))
    return Merged(len(writes), same, kept), writes


def _merge(items: Sequence[Item], txn: WriteTransaction) -> Merged:
    """Compare and write in one transaction."""
    now, found = time.time(), []
    for item in items:
        value, ttl = txn.get(item.key), txn.ttl(item.key)
        found.append(None if value is None or ttl is None else (value, now + ttl))
    merged, writes = _compare(items, found)
    for item, _ in writes:
        txn.set(item.key, item.value, item.ttl())
    return merged
