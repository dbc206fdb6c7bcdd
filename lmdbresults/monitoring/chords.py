"""Chords in flight, by what lies in the store: see `lmdbresults.store.chord_records`."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from typing import Final, NamedTuple

import msgpack

from lmdbresults import states
from lmdbresults.monitoring.heads import HEAD_BYTES, utc
from lmdbresults.monitoring.tasks import expiry
from lmdbresults.monitoring.values import Chord
from lmdbresults.record import TaskHead
from lmdbresults.store.base import Store
from lmdbresults.store.chord_records import CLAIMED, ENDED, Head, name_of, order_of, read_time
from lmdbresults.store.chords import Claim, TransactionalChords

__all__ = ["read_chord", "read_chords"]

#: The key of a record that belongs to a run.
_OF_RUN: Final = re.compile(rb"(.*\.[0-9a-f]{8})\.(?:part\.|more\.|body$|header$|renewed$)", re.DOTALL)


def read_chords(store: Store, prefix: bytes, limit: int) -> list[Chord]:
    """Return up to ``limit`` chords that are in flight. ``prefix`` begins the keys of all chords."""
    ids = (key[len(prefix) :].decode() for key in _keys(store, prefix))
    chords = (read_chord(store, prefix, id_) for id_ in ids)
    return list(islice((chord for chord in chords if chord is not None and chord.state != ENDED), limit))


def _are_records(store: Store) -> bool:
    """Return whether chords lie in a store as chord_records.py says. A subclass may keep some of them elsewhere."""
    return type(store.chords) is TransactionalChords


def _keys(store: Store, prefix: bytes) -> Iterator[bytes]:
    """Yield the keys of chords, and a few others."""
    if _are_records(store):
        start = prefix
        while (key := next((key for key, _ in store.range(prefix, start, 1, head=0)), None)) is not None:
            run = _OF_RUN.match(key)
            if run is None:
                yield key
            # The records of a run, which may be many, are jumped over: "/" follows ".".
            start = key + b"\0" if run is None else run[1] + b"/"
    else:
        yield from (key for key, _ in store.chords.in_flight(prefix))


def read_chord(store: Store, prefix: bytes, id_: str) -> Chord | None:
    """Return a chord, or None if there is none."""
    key = prefix + id_.encode()
    try:
        head = store.chords.head(key)
    except (ValueError, TypeError, msgpack.UnpackException):  # another record
        return None
    if head is None:
        return None
    parts = list(_parts(store, key, head))
    size = None if head.size is None else head.size + head.added
    places = {part.place for part in parts}
    is_placed = size is not None and len(places) == len(parts) and all(place < size for place in places)
    is_claimed = head.state == CLAIMED
    opened = read_time(store.get(name_of(key, head.run, "renewed")))
    return Chord(
        id=id_,
        state=head.state,
        size=size,
        returned=head.returned,
        failed=sum(part.has_failed for part in parts),
        missing=sorted(set(range(size)) - places) if is_placed and size is not None else None,
        returned_ids=[part.id for part in sorted(parts, key=lambda part: part.place)],
        opened=None if opened is None else datetime.fromtimestamp(opened, timezone.utc),
        last=max((part.ended for part in parts if part.ended is not None), default=None),
        expires=expiry(store, key),
        owner_pid=head.owner.pid if is_claimed else None,
        owner_alive=store.is_alive(head.owner) if is_claimed else None,
    )


class _Part(NamedTuple):
    """A part that has returned."""

    place: int
    id: str
    has_failed: bool
    ended: datetime | None


def _parts(store: Store, key: bytes, head: Head) -> Iterator[_Part]:
    """Yield the parts of a chord that have returned. Of a value no more is read than that takes, where possible."""
    if _are_records(store):
        beginning = name_of(key, head.run, "part.")
        for name, value in store.scan(beginning, head=HEAD_BYTES):
            place, _, part_id = name[len(beginning) :].decode().partition(".")
            with suppress(ValueError):
                yield _part(int(place, 16), part_id, _head_of_part(value))
    elif head.state != ENDED:
        for part in store.chords.read_run(Claim(key, head.run, "")).parts:
            with suppress(ValueError):
                yield _part(order_of(part.place), part.id, TaskHead.read(part.value))


def _part(place: int, id_: str, head: TaskHead | None) -> _Part:
    state, date = (None, None) if head is None else head[:2]
    return _Part(place, id_, state in states.PROPAGATE_STATES, utc(date))


def _head_of_part(value: bytes) -> TaskHead | None:
    """Return the head of the task record in a part, of which only the beginning was read."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(value)
    try:
        unpacker.read_array_header()
        for _ in range(3):  # number, place, id
            unpacker.skip()
        body = value[unpacker.tell() :]
    except (ValueError, msgpack.UnpackException):
        return None
    return TaskHead.read(_without_length(body))


def _without_length(body: bytes) -> bytes:
    """Return the content of a packed bytes object whose end may be missing."""
    sizes = {0xC4: 2, 0xC5: 3, 0xC6: 5}
    return body[sizes.get(body[0], 0) :] if body else body
