"""Counting: whether the heads of queues agree with the messages, and heads that do.

They can only disagree in a file that was damaged. All keys of a file may be counted, whatever their global prefix.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from lmdbresults.store.queues.heads import sound
from lmdbresults.store.queues.records import (
    DELAYED,
    DOOMED,
    DUE,
    HEAD,
    IDS,
    MESSAGE,
    NO_ID,
    PLACE,
    QUEUE_ID,
    READY,
    UNACKED,
    Head,
    read_unacked,
)
from lmdbresults.store.transactions import WriteTransaction

__all__ = ["Correction", "Tally", "recount"]

_COMMON: Final = b"queue-"
_COUNTED: Final = (HEAD, READY, DELAYED, UNACKED, DOOMED, IDS)
#: Lengths of the keys of messages behind their prefix.
_READY_LENGTH: Final = PLACE.size
_DELAYED_LENGTH: Final = PLACE.size + DUE.size
_UNACKED_LENGTH: Final = len(NO_ID) + 9
#: Bytes that are read of a message: it begins with the name of its queue, at most.
_MESSAGE_HEAD: Final = 300


class Correction(NamedTuple):
    """A record that disagrees with the messages."""

    text: str
    """A sentence."""
    key: bytes
    value: bytes
    """What it must be."""


@dataclass(slots=True)
class _Counts:
    """What was found of one queue."""

    ready: int = 0
    size: int = 0
    delayed: int = 0
    due: float = 0.0
    next: int = 0
    """One more than the highest sequence of a message."""
    name: str = ""
    """As deliveries have it."""

    def note(self, sequence: int) -> None:
        self.next = max(self.next, sequence + 1)


class Tally:
    """Counts the messages of queues, from records in any order."""

    def __init__(self) -> None:
        #: By global prefix: heads by the names of queues, ids of queues that are being deleted, and the last id.
        self._heads: dict[tuple[bytes, bytes], Head] = {}
        self._doomed: set[tuple[bytes, int]] = set()
        self._ids: dict[bytes, int] = {}
        #: By global prefix and id.
        self._counts: dict[tuple[bytes, int], _Counts] = {}

    def add(self, key: bytes, value: bytes) -> None:
        """Count a record. Of a message, the first bytes of the value are enough; other records are ignored."""
        start = key.find(_COMMON)
        if start < 0:
            return
        kind = next((kind for kind in _COUNTED if key.startswith(kind, start)), None)
        if kind is None:
            return
        prefix, rest = key[:start], key[start + len(kind) :]
        if kind == HEAD and len(value) >= len(Head.new(0).stored):
            self._heads[prefix, rest] = Head(value)
        elif kind == IDS and not rest and value.isdigit():
            self._ids[prefix] = int(value)
        elif kind == DOOMED and len(rest) == QUEUE_ID.size:
            self._doomed.add((prefix, *QUEUE_ID.unpack(rest)))
        elif kind == READY and len(rest) == _READY_LENGTH and len(value) >= MESSAGE.size:
            counts = self._of(prefix, rest)
            counts.ready += 1
            counts.size += MESSAGE.unpack_from(value)[3]
        elif kind == DELAYED and len(rest) == _DELAYED_LENGTH:
            counts = self._of(prefix, rest)
            (due,) = DUE.unpack_from(rest, QUEUE_ID.size)
            counts.due = min(due, counts.due) if counts.delayed else due
            counts.delayed += 1
        elif kind == UNACKED and len(rest) == _UNACKED_LENGTH and len(value) > PLACE.size:
            place, _, name, _ = read_unacked(value)
            self._of(prefix, place).name = name

    def _of(self, prefix: bytes, place: bytes) -> _Counts:
        (id_,) = QUEUE_ID.unpack_from(place)
        counts = self._counts.setdefault((prefix, id_), _Counts())
        counts.note(int.from_bytes(place[-8:], "big"))
        return counts

    def corrections(self) -> list[Correction]:
        """Return the heads that are wrong, and those that are missing although there are messages."""
        found = []
        for (prefix, name), head in self._heads.items():
            counts = self._counts.get((prefix, head.id), _Counts())
            if said := _disagreement(head, counts):
                found.append(_correction(prefix, name.decode(errors="replace"), name, head, counts, said))
        known = {(prefix, head.id) for (prefix, _), head in self._heads.items()} | self._doomed
        for (prefix, id_), counts in self._counts.items():
            if (prefix, id_) not in known and (counts.ready or counts.delayed):
                found.append(self._without_head(prefix, id_, counts))
        return found + self._wrong_ids()

    def _without_head(self, prefix: bytes, id_: int, counts: _Counts) -> Correction:
        name = counts.name
        if not name or (prefix, name.encode()) in self._heads:
            name = f"salvaged-{id_}"
        return _correction(prefix, name, name.encode(), Head.new(id_), counts, "is missing")

    def _wrong_ids(self) -> list[Correction]:
        highest: dict[bytes, int] = {}
        heads = [(prefix, head.id) for (prefix, _), head in self._heads.items()]
        for prefix, id_ in (*heads, *self._counts):
            highest[prefix] = max(highest.get(prefix, 0), id_)
        return [
            Correction(f"A new queue would get an id up to {id_}, which is in use.", prefix + IDS, b"%d" % id_)
            for prefix, id_ in highest.items()
            if self._ids.get(prefix, 0) < id_
        ]


def _disagreement(head: Head, counts: _Counts) -> str:
    """Return what a head says that is not so; nothing if it agrees with the messages."""
    if (head.ready, head.size, head.delayed) != (counts.ready, counts.size, counts.delayed):
        return f"counts {head.ready} messages of {head.size} bytes and {head.delayed} delayed ones"
    if head.next < counts.next:
        return f"would number a message {head.next} again"
    if counts.delayed and head.due > counts.due:
        return "says that the first delayed message is due later"
    return ""


def _correction(prefix: bytes, name: str, key: bytes, head: Head, counts: _Counts, said: str) -> Correction:
    head.ready, head.size, head.delayed, head.due = counts.ready, counts.size, counts.delayed, counts.due
    head.next = max(head.next, counts.next)
    text = f"The head of queue {name!r} {said}: there are {counts.ready} of {counts.size} bytes and {counts.delayed}."
    return Correction(text, prefix + HEAD + key, head.pack())


def recount(txn: WriteTransaction) -> list[str]:
    """Correct the heads of all queues; return a sentence for each. Works in a full store."""
    tally = Tally()
    for kind in _COUNTED:
        for key, value in sound(txn.range(kind, head=None if kind == HEAD else _MESSAGE_HEAD)):
            tally.add(key, value)
    found = tally.corrections()
    for correction in found:
        txn.move(correction.key, correction.key, correction.value)
    return [correction.text for correction in found]
