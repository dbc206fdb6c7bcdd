"""The hand: finds and deletes expired records by walking the tree, so that no index by deadline is needed.

There is one hand per file. Its position is a record of the file, so whichever process moves it goes on where the last
one stopped, and each pass comes to every record once. A writer moves it in its own transaction: for every record that
is written, the hand looks at `_PACE` others, in turns of `_TURN` records, and deletes the expired ones. If N records
live and one expires for each one written, a pass takes N / (_PACE - 1) writes. So expired records are at most a fifth
of the live ones wherever they lie in the tree, and half of that where they lie at random.

Between passes the hand rests until the first record can be due. Invariant: the bound of the hand is at or before the
deadline of every record that was written since its present pass began, or that the pass has come to; while it rests, of
every record. A writer that stores an earlier deadline lowers the bound in the same transaction.
"""

import math
import struct
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.records import chunks
from lmdbresults.store.lmdb.records.layout import (
    DOOMED,
    END_OF_PLACES,
    FIRST_PLACE,
    IS_CHUNKED,
    RECORD,
    Record,
    key_at,
    pack,
    unpack,
    unpack_head,
)
from lmdbresults.store.lmdb.records.records import write
from lmdbresults.store.lmdb.types import FINAL, Change, Transaction
from lmdbresults.store.values import NEVER

__all__ = ["HAND_KEY", "Hand", "Keeper", "Walk", "advance", "hand_of"]

#: The place of the hand's record.
HAND_KEY: Final = b"\x00hand"

#: Records looked at for each one written. Expired records are 9 % of the live ones where they lie at random, and up to
#: 20 % where they lie side by side, as with ids in the order of time; with 4, 14 % and 33 %. A look takes 0.4 µs.
_PACE: Final = 6
#: Writes between two turns. Records that are side by side share pages, and copying a page costs as much as five looks.
_WRITES_PER_TURN: Final = 16
_TURN: Final = _PACE * _WRITES_PER_TURN
#: Above the first share of expired records in a turn, turns become more frequent; below the second, less frequent.
_MUCH, _LITTLE = 0.3, 0.15

#: Returns the deadline of a record, which follows the checksum in both formats.
_deadline_in: Final = struct.Struct(">4xd").unpack_from


class Hand(NamedTuple):
    """What the file knows of the hand."""

    bound: float = NEVER
    """At or before all deadlines that the invariant names."""
    position: bytes = b""
    """The place at which the hand goes on; b"": it rests until `bound`."""

    def is_due(self, now: float) -> bool:
        """Return whether there may be expired records."""
        return bool(self.position) or self.bound <= now


class Walk(NamedTuple):
    """What one step of the hand has done."""

    hand: Hand
    """The hand after it."""
    looked: int
    """How many records it looked at."""
    removed: int
    """How many records it deleted."""
    work: int
    """How many records and chunks it deleted."""


def hand_of(txn: Transaction) -> Hand:
    """Return the hand of a file; if it is missing or damaged, one that begins a pass at once."""
    data = txn.get(HAND_KEY)
    try:
        found = None if data is None else unpack(HAND_KEY, data)
    except RecordDamaged:
        found = None
    return Hand() if found is None else Hand(found.deadline, found.body)


def _put(txn: Transaction, hand: Hand) -> None:
    txn.put(HAND_KEY, pack(HAND_KEY, hand.bound, 0, hand.position))


def advance(txn: Transaction, hand: Hand, now: float, count: int, limit: float, changes: list[Change]) -> Walk:
    """Look at the next ``count`` records, and delete those that have expired, up to ``limit``.

    Append them to ``changes``. Of large values, up to ``count`` chunks are deleted; the hand stays at a record that has
    more of them. At the end of a pass it stops, and rests.
    """
    bound, position = hand if hand.position else (math.inf, FIRST_PLACE)
    looked, due, bound, position = _look(txn, position, count, now, bound)
    removed = work = 0
    for place, key, is_chunked in due:
        if removed == limit:
            position = place
            break
        changes.append((key, FINAL, None, NEVER))
        if is_chunked:
            gone, is_left = _shorten(txn, place, key, max(count - work, 1))
            work += gone
            if is_left:
                position = place
                break
        txn.delete(place)
        removed += 1
    hand = Hand(bound, position)
    _put(txn, hand)
    return Walk(hand, looked, removed, work + removed)


def _look(
    txn: Transaction, position: bytes, count: int, now: float, bound: float
) -> tuple[int, list[tuple[bytes, bytes, int]], float, bytes]:
    """Look at up to ``count`` records from a position on.

    Return how many there were; place and key of those that are sound and due, and whether they have chunks; the bound,
    lowered to the deadlines of the others; and the next position. Damaged records are left for `check`.
    """
    looked, place, due = 0, b"", []
    cursor = txn.cursor()
    for place, data in islice(cursor, count) if cursor.set_range(position) else ():
        if place >= END_OF_PLACES:
            break
        looked += 1
        try:
            (deadline,) = _deadline_in(data)
            if deadline > now:
                if deadline < bound:
                    bound = deadline
            elif deadline > NEVER:
                key = place[1:] if place >= RECORD else key_at(place, data)
                due.append((place, key, unpack_head(key, data)[1] & IS_CHUNKED))
        except (RecordDamaged, struct.error):
            continue
    return looked, due, bound, place + b"\0" if looked == count else b""


def _shorten(txn: Transaction, place: bytes, key: bytes, most: int) -> tuple[int, bool]:
    """Delete up to ``most`` chunks of a large value; return how many, and whether there are more."""
    record = unpack(key, txn.get(place, b""))
    gone, rest = chunks.shorten(txn, record.body, most)
    if rest is not None:  # half a value must stay expired even if the clock is set back
        write(txn, key, place, Record(DOOMED, record.flags, rest))
    return gone, rest is not None


class Keeper:
    """Moves the hand as one store writes, and keeps its bound. Guarded by the write lock."""

    def __init__(self) -> None:
        #: The number of a commit, and the hand as of then. No other process has written if the next commit has the next
        #: number. LMDB gives the number of a transaction that writes nothing to the next one, of whichever process; so
        #: such a one is known by the number of the commit before it.
        self.known = (-1, Hand())
        #: Records and chunks written since the last turn.
        self.owed = 0
        #: The first deadline that was set since the hand was last moved, or its bound lowered. Transactions that were
        #: rolled back count too: a bound that is too low does no harm.
        self.soonest = math.inf
        #: Records from one turn to the next: few at first, so that processes that exit soon take part, and while much
        #: is found.
        self._interval = 1

    def note(self, records: int, deadline: float) -> None:
        """Note that so many records are written, with a deadline."""
        self.owed += records
        if NEVER < deadline < self.soonest:
            self.soonest = deadline

    def keep_up(self, txn: Transaction, clock: Callable[[], float], changes: list[Change]) -> tuple[int, Hand]:
        """Move the hand as a transaction ends; return the transaction's number, and the hand as of its end."""
        number = txn.id()
        last, hand = self.known
        if number == last + 1 and self.owed < self._interval and self.soonest >= hand.bound:
            return number, hand
        if number != last + 1:
            hand = hand_of(txn)
        if self.soonest < hand.bound:
            hand = hand._replace(bound=self.soonest)
            _put(txn, hand)
        self.soonest = math.inf
        if self.owed >= self._interval:
            now = clock()
            if hand.is_due(now):
                hand = self._move(txn, hand, now, changes)
            else:
                self._interval = min(self._interval * 2, _WRITES_PER_TURN)
            self.owed = 0
        return number, hand

    def _move(self, txn: Transaction, hand: Hand, now: float, changes: list[Change]) -> Hand:
        """Make the turns that are due."""
        count = min(self.owed // self._interval * _TURN, _TURN + 2 * _PACE * self.owed)
        is_new_pass = not hand.position
        walk = advance(txn, hand, now, count, count, changes)
        if walk.work > _MUCH * walk.looked:
            self._interval = max(self._interval // 2, 1)
        elif walk.work < _LITTLE * walk.looked:
            self._interval = min(self._interval * 2, _WRITES_PER_TURN)
        if walk.hand.position or walk.looked == count:
            return walk.hand
        if is_new_pass:  # all records fit one turn
            self._interval = min(self._interval, max(walk.looked // _PACE, 1))
        elif walk.hand.is_due(now):
            walk = advance(txn, walk.hand, now, count - walk.looked, count, changes)
        return walk.hand
