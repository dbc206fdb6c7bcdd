"""Chords as operations of a store: what backends call, whichever engine keeps them."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

from lmdbresults.store import chord_steps as steps
from lmdbresults.store.chord_records import HEAD_BYTES, Head, Part, is_head, read_head
from lmdbresults.store.chord_steps import Claim, Liveness, PartOutcome, ResultRecord, Run
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["Claim", "Part", "PartOutcome", "ResultRecord", "Run", "TransactionalChords", "hand_over"]

Result = TypeVar("Result")
#: What a caller does in the transaction of an operation.
Step: TypeAlias = Callable[[WriteTransaction], object]


class _Transactional(Liveness, Protocol):
    """What the chords ask of their store."""

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        """See `lmdbresults.store.base.Store.view`."""

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        """See `lmdbresults.store.base.Store.update`."""

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTransaction.scan`."""


class TransactionalChords:
    """The chords of a store with arbitrary transactions: each operation is one transaction.

    ``key`` is the key of the chord, under which all its records lie. ``ttl`` is for how many seconds the chord is kept
    after its last sign of life; None: a year. ``claims_key`` is the key under which claimed chords are listed; all
    chords of a backend share it.
    """

    def __init__(self, store: _Transactional) -> None:
        self._store = store

    def open(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> None:
        """Start a new run of a chord that waits for ``size`` parts (None: not known yet)."""
        self._store.update(
            lambda txn: steps.open_chord(txn, self._store, key, ttl, size=size, body=body, header=header)
        )

    def adopt(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> bool:
        """Open a chord that another store has opened, unless it is here; return whether it was not.

        An open one is completed: it waits for at least ``size`` parts, and gets the body and the header that it lacks
        because a part has returned before.
        """
        return self._store.update(
            lambda txn: steps.adopt(txn, self._store, key, ttl, size=size, body=body, header=header)
        )

    def head(self, key: bytes) -> Head | None:
        """Return the state of a chord, or None if there is no such chord."""
        return self._store.view(partial(read_head, key=key))

    def in_flight(self, prefix: bytes) -> Iterator[tuple[bytes, Head]]:
        """Yield the keys that begin with ``prefix`` and belong to chords, with their heads: of ended ones as well."""
        for key, beginning in self._store.scan(prefix, head=HEAD_BYTES):
            if is_head(beginning):
                head = self.head(key)
                if head is not None:
                    yield key, head

    def set_size(
        self, key: bytes, size: int, ttl: float | None, claims_key: bytes, *, at_least: bool = False
    ) -> Claim | None:
        """Set how many parts a chord waits for, or ``at_least`` how many; return the claim if they have returned."""
        return self._store.update(
            lambda txn: steps.set_size(txn, self._store, key, size, ttl, claims_key, at_least=at_least)
        )

    def add_more(self, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
        """Let an open chord wait for the parts of one more result; return whether there is such a chord."""
        return self._store.update(lambda txn: steps.add_more(txn, key, id_, count, ttl))

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
        """Store a part and the ``result`` of its task, and count the part once; return what became of it.

        ``size`` is used if none was set. Returns None if neither the chord nor its size is known; the result is stored
        nevertheless.
        """
        return self._store.update(
            lambda txn: steps.return_part(txn, self._store, key, part, ttl, claims_key, size=size, result=result)
        )

    def read_run(self, claim: Claim) -> Run:
        """Return the records of a complete chord."""
        return self._store.view(lambda txn: steps.read_run(txn, claim))

    def release(self, claim: Claim) -> None:
        """Release a claim, so that any process can take it over."""
        self._store.update(lambda txn: steps.release(txn, claim))

    def orphans(self, claims_key: bytes) -> list[bytes]:
        """Return the keys of chords whose claim was released, or belongs to a dead owner."""
        return self._store.view(lambda txn: steps.orphans(txn, self._store, claims_key))

    def take_over(self, key: bytes, claims_key: bytes) -> Claim | None:
        """Take the claim on a chord if it is orphaned."""
        return self._store.update(lambda txn: steps.take_over(txn, self._store, key, claims_key))

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
        """End a chord, so that late parts do nothing; return False if the claim was taken over.

        ``names`` are keys of records to delete. The call that ``is_last`` releases the claim. ``also`` is what to do in
        the same transaction, unless the claim was taken over.
        """
        wanted = list(names)
        return self._store.update(
            lambda txn: _with(txn, steps.end(txn, claim, ttl, claims_key, wanted, is_last=is_last), also)
        )

    def clear(self, claim: Claim, names: Iterable[bytes], *, also: Step | None = None) -> bool:
        """Delete records of a run that has expired or was replaced; return False if the run is current.

        ``also`` is what to do in the same transaction, unless the run is current.
        """
        wanted = list(names)
        return self._store.update(lambda txn: _with(txn, steps.clear(txn, claim, wanted), also))

    def leftovers(self, claim: Claim) -> list[bytes]:
        """Return the keys of all records that an ended chord still has."""
        return self._store.view(lambda txn: steps.leftovers(txn, claim))

    def has_ended(self, key: bytes) -> bool:
        """Return whether a chord has ended, and its head has not expired since."""
        return self._store.view(lambda txn: steps.has_ended(txn, key))


def hand_over(
    chords: TransactionalChords, key: bytes, run: Run, size: int | None, ttl: float | None, claims_key: bytes
) -> bool:
    """Give to the chords of one store an open chord of another; return whether they lacked it, or any of its parts.

    If that completes it, the claim is released: a worker finds it and sends the body.
    """
    counted, is_new = 0, chords.adopt(key, ttl, size=size, body=run.body, header=run.header)
    for part in run.parts:
        outcome = chords.return_part(key, part, ttl, claims_key, size=size)
        if outcome is not None:
            counted += outcome.counts
            if outcome.claim is not None:
                chords.release(outcome.claim)
    return is_new or counted > 0


def _with(txn: WriteTransaction, is_done: bool, also: Step | None) -> bool:
    if is_done and also is not None:
        also(txn)
    return is_done
