"""The new file that `salvage` writes records to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import lmdb

from lmdbresults.errors import NewerFormat, RecordDamaged
from lmdbresults.store.lmdb.durability import log_file
from lmdbresults.store.lmdb.file.format import FORMAT_KEY, FORMAT_VERSION, mark, version_of
from lmdbresults.store.lmdb.file.pages import Node
from lmdbresults.store.lmdb.maintenance.check import repair, repairable
from lmdbresults.store.lmdb.records.layout import (
    CHUNK,
    HASHED,
    IS_CHUNKED,
    IS_HASHED,
    LONGEST_KEY,
    RECORD,
    Record,
    key_at,
    place_of,
    unpack,
)
from lmdbresults.store.lmdb.records.records import sound_record, value_of, write
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.queues.counting import Tally
from lmdbresults.store.values import NEVER

__all__ = ["SalvageWriter", "Salvaged"]

#: Repairs made in one transaction at the end.
_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was salvaged from a damaged file, and what was lost."""

    records: int
    """Records in the new file."""
    expired: int
    """Records that were left out because they had expired."""
    strays: int
    """Of `records`: found in pages that no other page leads to any more."""
    damaged: Sequence[str]
    """One sentence for each record that was found but cannot be read."""
    missing: int = 0
    """Entries that the tree should have and that were not found. Not all are records."""
    problems: Sequence[str] = ()
    """What is wrong with the pages of the damaged file."""
    recounted: Sequence[str] = ()
    """One sentence for each queue whose head did not agree with the messages that were found."""
    is_certain: bool = True
    """Whether the list of free pages was intact. If not, some of the salvaged records may be older or deleted ones."""

    def is_complete(self) -> bool:
        """Return whether everything that the damaged file held was salvaged."""
        return self.is_certain and not (self.missing or self.damaged)


class SalvageWriter:
    """Writes the records of a damaged file to a new one: first those of the tree, then strays.

    A stray never replaces a record of the tree. Of two strays under one key, the one that lives longer is kept: it was
    stored later if both were given the same time to live.
    """

    def __init__(self, handle: lmdb.Environment, now: float) -> None:
        self._handle = handle
        self._now = now
        #: Entries seen so far.
        self.entries = 0
        #: Places of expired records: those of the tree, and strays.
        self._expired: set[bytes] = set()
        self._expired_strays: set[bytes] = set()
        #: Places of strays that were written.
        self._strays: set[bytes] = set()
        #: Why the record at a place cannot be read.
        self._damaged: dict[bytes, str] = {}
        with handle.begin(write=True) as txn:
            mark(txn)

    def add(self, nodes: list[Node], *, stray: bool) -> None:
        """Write the sound records among the entries of some pages."""
        with self._handle.begin(write=True) as txn:
            for node in nodes:
                self._add(txn, node.key, node.value, stray)
        self.entries += len(nodes)

    def _add(self, txn: Transaction, place: bytes, data: bytes, stray: bool) -> None:
        region = place[:1]
        if region in (RECORD, HASHED):
            self._add_record(txn, place, data, stray)
        elif region == CHUNK:
            txn.put(place, data, overwrite=False)
        elif place == FORMAT_KEY and (version_of(data) or 0) > FORMAT_VERSION:
            raise NewerFormat(f"The file has format {version_of(data)}: salvage it with the lmdbresults that wrote it.")

    def _add_record(self, txn: Transaction, place: bytes, data: bytes, stray: bool) -> None:
        try:
            key = key_at(place, data)
            record = unpack(key, data)
        except RecordDamaged as damage:
            self._damaged.setdefault(place, str(damage))
            return
        place = place_of(key)
        present = sound_record(txn, key, place)
        if stray and (place in self._expired or (present and place not in self._strays)):
            return  # the tree had it
        expired = self._expired_strays if stray else self._expired
        if record.is_expired(self._now):
            if present is None:
                expired.add(place)
        elif present is None or _end_of(record) > _end_of(present):
            expired.discard(place)
            write(txn, key, place, record)
            if stray:
                self._strays.add(place)

    def redo(self, records: list[log_file.Record]) -> None:
        """Write what the log has after the state of the tree."""
        with self._handle.begin(write=True) as txn:
            log_file.redo(txn, records)

    def finish(self) -> Salvaged:
        """Remove large values that are incomplete, and chunks without a record; count messages; return the report."""
        for place, data in self._chunked_records():
            self._drop_if_incomplete(place, data)
        with self._handle.begin() as txn:
            problems = repairable(txn)
        for start in range(0, len(problems), _BATCH):
            with self._handle.begin(write=True) as txn:
                repair(txn, problems[start : start + _BATCH])
        with self._handle.begin(write=True) as txn:
            recounted = _recount(txn)
            return replace(self._report(txn), recounted=recounted)

    def _chunked_records(self) -> list[tuple[bytes, bytes]]:
        with self._handle.begin() as txn:
            return [
                (place, data)
                for place, data in txn.cursor()
                if place[:1] in (RECORD, HASHED) and unpack(key_at(place, data), data).flags & IS_CHUNKED
            ]

    def _drop_if_incomplete(self, place: bytes, data: bytes) -> None:
        key = key_at(place, data)
        record = unpack(key, data)
        with self._handle.begin(write=True) as txn:
            try:
                value_of(txn, key, record)
            except RecordDamaged as damage:
                self._damaged[place] = str(damage)
                txn.delete(place)

    def _report(self, txn: Transaction) -> Salvaged:
        present = {place for place in txn.cursor().iternext(values=False) if place[:1] in (RECORD, HASHED)}
        expired = self._expired | self._expired_strays
        damaged = {place: why for place, why in self._damaged.items() if place not in present}
        return Salvaged(
            records=len(present),
            expired=len(expired),
            strays=len(self._strays & present),
            damaged=sorted(damaged.values()),
        )


def _recount(txn: Transaction) -> list[str]:
    """Correct the heads of queues, whatever their prefix; return a sentence for each."""
    queues = Tally()
    for place, data in txn.cursor():
        if place[:1] in (RECORD, HASHED):
            key = key_at(place, data)
            queues.add(key, unpack(key, data).body)
    corrections = queues.corrections()
    for _, key, value in corrections:
        write(txn, key, place_of(key), Record(NEVER, IS_HASHED if len(key) > LONGEST_KEY else 0, value))
    return [correction.text for correction in corrections]


def _end_of(record: Record) -> float:
    """Return when a record expires, infinity for never."""
    return record.deadline or math.inf
