"""Chords in flight, by what lies in the store: see `lmdbresults.store.chord_records`."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgpack

from lmdbresults import states
from lmdbresults.monitoring.heads import HEAD_BYTES, utc
from lmdbresults.monitoring.tasks import expiry
from lmdbresults.monitoring.values import Chord
from lmdbresults.record import TaskHead
from lmdbresults.store.base import Store
from lmdbresults.store.chord_records import CLAIMED, Head, name_of, read_head

__all__ = ["read_chord", "read_chords"]

#: The key of a record that belongs to a run.
_OF_RUN: Final = re.compile(rb"(.*\.[0-9a-f]{8})\.(?:part\.|more\.|body$|header$|renewed$)", re.DOTALL)


def read_chords(store: Store, prefix: bytes, limit: int) -> list[Chord]:
    """Return up to ``limit`` chords that are in flight. ``prefix`` begins the keys of all chords."""
    found = []
    for key in _chord_keys(store, prefix):
        chord = read_chord(store, prefix, key[len(prefix) :].decode())
        if chord is not None and chord.state != "ended":
            found.append(chord)
            if len(found) == limit:
                break
    return found


def _chord_keys(store: Store, prefix: bytes) -> Iterator[bytes]:
    """Yield the keys of heads. The records of a run, which may be many, are jumped over."""
    start = prefix
    while (key := next((key for key, _ in store.range(prefix, start, 1, head=0)), None)) is not None:
        run = _OF_RUN.match(key)
        if run is None:
            yield key
        start = key + b"\0" if run is None else run[1] + b"/"  # "/" follows "."


def read_chord(store: Store, prefix: bytes, id_: str) -> Chord | None:
    """Return a chord, or None if there is none."""
    key = prefix + id_.encode()
    try:
        head = read_head(store, key)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    if head is None:
        return None
    parts = list(_parts(store, key, head))
    expires = expiry(store, key)
    size = None if head.size is None else head.size + head.added
    places = {place for place, *_ in parts}
    is_placed = size is not None and len(places) == len(parts) and all(place < size for place in places)
    is_claimed = head.state == CLAIMED
    dates = [ended for *_, ended in parts if ended is not None]
    return Chord(
        id=id_,
        state=head.state,
        size=size,
        returned=head.returned,
        failed=sum(has_failed for _, _, has_failed, _ in parts),
        missing=sorted(set(range(size)) - places) if is_placed and size is not None else None,
        returned_ids=[part_id for _, part_id, *_ in sorted(parts)],
        opened=None,
        last=max(dates, default=None),
        expires=expires,
        owner_pid=head.owner.pid if is_claimed else None,
        owner_alive=store.is_alive(head.owner) if is_claimed else None,
    )


def _parts(store: Store, key: bytes, head: Head) -> Iterator[tuple[int, str, bool, datetime | None]]:
    """Yield place, id, whether it has failed, and when it ended, of each part that has returned."""
    beginning = name_of(key, head.run, "part.")
    for name, value in store.scan(beginning, head=HEAD_BYTES):
        place, _, part_id = name[len(beginning) :].decode().partition(".")
        record = _head_of_part(value)
        state = None if record is None else record.state
        with suppress(ValueError):
            yield (
                int(place, 16),
                part_id,
                state in states.PROPAGATE_STATES,
                utc(None if record is None else record.date_done),
            )


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
