"""The chords of two stores: open ones move from the old store to the new one."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgpack

from lmdbresults.store.base import Store
from lmdbresults.store.chord_records import OPEN, Head, Part, name_of, read_head
from lmdbresults.store.chords import Claim, PartOutcome, ResultRecord, Run, Step, TransactionalChords, hand_over

__all__ = ["FallbackChords"]

#: Seconds between two looks for parts that workers have returned to the old store.
_LOOK_EVERY: Final = 1.0


class FallbackChords(TransactionalChords):
    """The chords of a `FallbackStore`.

    A chord is opened in both, for workers that know only the old store return parts there. A part goes to the new
    store, after what the old one has of its chord: size, body, header and parts; parts that return there later are
    handed over again and again. A part counts once, so the chord is completed in one of the two stores: in the old one
    if all parts have returned there. Else it stays there until it expires.
    """

    def __init__(self, new: Store, old: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._new_store, self._old_store = new, old
        self._new, self._old = new.chords, old.chords
        self._clock = clock
        self._look_at = 0.0
        #: How many parts of a chord's run were handed over.
        self._handed_over: dict[tuple[bytes, str], int] = {}

    # -- from the old store to the new one -----------------------------------------------------------------------------

    def _hand_over(self, key: bytes, head: Head, claims_key: bytes) -> None:
        if head.state != OPEN or self._handed_over.get((key, head.run)) == head.returned:
            return
        (ttl,) = self._old_store.ttls([key])
        if ttl is None:  # it has expired just now
            return
        ttl = None if ttl == math.inf else ttl
        run = self._old.read_run(Claim(key, head.run, ""))
        self._new.adopt(key, ttl, size=head.size, body=run.body, header=run.header)
        for name in run.names:  # before the parts: they must not complete the chord without them
            addition = self._old_store.get(name) if name.startswith(name_of(key, head.run, "more.")) else None
            if addition is not None:
                _, count, id_ = msgpack.unpackb(addition)
                self._new.add_more(key, id_, count, ttl)
        hand_over(self._new, key, run, head.size, ttl, claims_key)
        self._handed_over[key, head.run] = len(run.parts)

    def _hand_over_all(self, claims_key: bytes) -> None:
        """Hand over the parts of chords that are open in both stores: the last may have returned to the old one."""
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + _LOOK_EVERY
        prefix = claims_key.rpartition(b".")[0]
        heads = {key: head for key, head in self._old.in_flight(prefix) if head.state == OPEN}
        known = {(key, head.run) for key, head in heads.items()}
        self._handed_over = {name: count for name, count in self._handed_over.items() if name in known}
        for (key, head), ttl in zip(heads.items(), self._new_store.ttls(heads), strict=True):
            if ttl is not None:
                self._hand_over(key, head, claims_key)

    def _holding(self, claim: Claim) -> TransactionalChords:
        """Return where a claim was made."""
        head = read_head(self._old_store, claim.key)
        return self._old if head is not None and head.run == claim.run else self._new

    # -- operations ----------------------------------------------------------------------------------------------------

    def open(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> None:
        self._old.open(key, ttl, size=size, body=body, header=header)
        self._new.open(key, ttl, size=size, body=body, header=header)

    def adopt(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> bool:
        return self._new.adopt(key, ttl, size=size, body=body, header=header)

    def head(self, key: bytes) -> Head | None:
        return self._new.head(key) or self._old.head(key)

    def in_flight(self, prefix: bytes) -> Iterator[tuple[bytes, Head]]:
        found = set()
        for key, head in self._new.in_flight(prefix):
            found.add(key)
            yield key, head
        yield from ((key, head) for key, head in self._old.in_flight(prefix) if key not in found)

    def set_size(
        self, key: bytes, size: int, ttl: float | None, claims_key: bytes, *, at_least: bool = False
    ) -> Claim | None:
        head = read_head(self._old_store, key)
        if head is not None and head.state == OPEN:
            claim = self._old.set_size(key, size, ttl, claims_key, at_least=at_least)
            if claim is not None:  # all parts have returned to the old store
                return claim
            self._hand_over(key, head, claims_key)
        return self._new.set_size(key, size, ttl, claims_key, at_least=at_least)

    def add_more(self, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
        is_old = self._old.add_more(key, id_, count, ttl)
        return self._new.add_more(key, id_, count, ttl) or is_old

    def return_part(
        self,
        key: bytes,
        part: Part,
        ttl: float | None,
        claims_key: bytes,
        *,
        size: int | None = None,
        result: ResultRecord | None = None,
    ) -> PartOutcome | None:
        head = read_head(self._old_store, key)
        if head is not None and head.state != OPEN and self._new_store.ttl(key) is None:
            # it ended in the old store, or its body is being sent there: this is a duplicate of a part
            if result is not None:
                self._new_store.set(result.key, result.value, result.ttl, keep_prefix=result.keep_prefix)
            return PartOutcome(False, None)
        if head is not None:
            self._hand_over(key, head, claims_key)
        return self._new.return_part(key, part, ttl, claims_key, size=size, result=result)

    def read_run(self, claim: Claim) -> Run:
        return self._holding(claim).read_run(claim)

    def release(self, claim: Claim) -> None:
        self._holding(claim).release(claim)

    def orphans(self, claims_key: bytes) -> list[bytes]:
        self._hand_over_all(claims_key)
        return list({*self._new.orphans(claims_key), *self._old.orphans(claims_key)})

    def take_over(self, key: bytes, claims_key: bytes) -> Claim | None:
        return self._new.take_over(key, claims_key) or self._old.take_over(key, claims_key)

    def end(
        self,
        claim: Claim,
        ttl: float | None,
        claims_key: bytes,
        names: Iterable[bytes],
        *,
        is_last: bool,
        also: Step | None = None,
    ) -> bool:
        return self._holding(claim).end(claim, ttl, claims_key, names, is_last=is_last, also=also)

    def clear(self, claim: Claim, names: Iterable[bytes], *, also: Step | None = None) -> bool:
        return self._holding(claim).clear(claim, names, also=also)

    def leftovers(self, claim: Claim) -> list[bytes]:
        return self._holding(claim).leftovers(claim)

    def has_ended(self, key: bytes) -> bool:
        return self._new.has_ended(key) or self._old.has_ended(key)
