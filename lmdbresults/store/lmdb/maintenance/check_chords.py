"""What is left of chords that nobody counts any more, and stays for ever. Looked for by a deep check only."""

import re
from collections.abc import Iterator
from typing import Final

import msgpack

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.lmdb.records.records import lookup, record_at
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.values import NEVER

__all__ = ["chord_leftovers"]

#: Key of the chord, run, and what of it: the names that chords.py gives.
_BELONGING: Final = re.compile(
    rb"k(.+)\.([0-9a-f]{8})\.(?:part\.[0-9a-f]{16}\..*|more\..*|body|header|renewed)", re.DOTALL
)


def chord_leftovers(txn: Transaction) -> Iterator[str]:
    """Yield a sentence for what belongs to a run of a chord that is unknown, and has no deadline.

    What has one is in nobody's way until then: a head lives shorter than what belongs to it.
    """
    cursor = txn.cursor()
    if not cursor.set_range(b"k"):
        return
    runs: dict[bytes, str | None] = {}
    for place in cursor.iternext(values=False):
        if not place.startswith(b"k"):
            return
        match = _BELONGING.fullmatch(place)
        _, record = record_at(txn, place) if match else (b"", None)
        if match is None or record is None or record.deadline != NEVER:
            continue
        key, run = match[1], match[2].decode()
        if key not in runs:
            runs = {key: _run_of(txn, key)}  # of the chord at hand: their keys lie side by side
        if runs[key] != run:
            named = quoted(place[1:])
            yield f"The record under {named} belongs to a chord that is gone, or begun anew, and never expires."


def _run_of(txn: Transaction, key: bytes) -> str | None:
    try:
        head = lookup(txn, key, NEVER)
        return None if head is None else str(msgpack.unpackb(head)[0])
    except (RecordDamaged, ValueError, TypeError, msgpack.UnpackException):
        return None  # damaged, or no chord
