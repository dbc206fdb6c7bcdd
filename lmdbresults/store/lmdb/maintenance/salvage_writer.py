"""The new file that records are rescued to."""

import math
from typing import TYPE_CHECKING, Final

import lmdb

from lmdbresults.errors import NewerFormat, RecordDamaged, quoted
from lmdbresults.store.lmdb.file.format import FORMAT_KEY, FORMAT_VERSION, mark, version_of
from lmdbresults.store.lmdb.file.pages import Node
from lmdbresults.store.lmdb.maintenance.check import apply, cures_in
from lmdbresults.store.lmdb.records.expiry_index import index_key, place_in
from lmdbresults.store.lmdb.records.layout import (
    CHUNK,
    HASHED,
    INDEX,
    IS_AWAITED,
    IS_CHUNKED,
    LONGEST_KEY,
    RECORD,
    Record,
    key_at,
    place_of,
    unpack,
)
from lmdbresults.store.lmdb.records.records import sound_record, value_of, write
from lmdbresults.store.lmdb.types import Transaction

if TYPE_CHECKING:
    from lmdbresults.store.lmdb.maintenance.salvage import Salvaged

__all__ = ["Rescue"]

#: Ranks of records: of the tree, of pages that the tree has lost; the others are of free pages.
_OF_THE_TREE, _STRAY = 0, 1
#: Records that are looked through in one transaction at the end.
_BATCH: Final = 1000


class Rescue:
    """Takes records, those of the newest rank first: what is there already is not replaced by one of a later rank."""

    def __init__(self, handle: lmdb.Environment, now: float) -> None:
        self._handle = handle
        self._now = now
        #: Entries met in the tree and in what it has lost.
        self.met = 0
        #: Places of records whose time is over, with the rank that brought them.
        self._expired: dict[bytes, int] = {}
        #: Why, by the places of records that cannot be read.
        self._damaged: dict[bytes, str] = {}
        #: Places that the index tells of, and that had not been met by then.
        self._indexed: set[bytes] = set()
        self._rank = _OF_THE_TREE
        #: Places of what a rank has brought; not kept for the tree, in which each place is there once.
        self._new: dict[int, set[bytes]] = {}
        with handle.begin(write=True) as txn:
            mark(txn)

    def take(self, rank: int, nodes: list[Node]) -> None:
        """Take what is worth taking among the entries of some pages."""
        self._rank = rank
        with self._handle.begin(write=True) as txn:
            for node in nodes:
                self._take(txn, node.key, node.value)
        if rank <= _STRAY:
            self.met += len(nodes)

    def _take(self, txn: Transaction, place: bytes, data: bytes) -> None:
        region = place[:1]
        if region in (RECORD, HASHED):
            self._take_record(txn, place, data)
        elif region == CHUNK:
            txn.put(place, data, overwrite=False)
        elif region == INDEX and self._rank <= _STRAY:
            indexed = place_in(place)
            if indexed and txn.get(indexed) is None:
                self._indexed.add(indexed)
        elif place == FORMAT_KEY and (version_of(data) or 0) > FORMAT_VERSION:
            raise NewerFormat(f"The file has format {version_of(data)}: salvage it with the lmdbresults that wrote it.")

    def _take_record(self, txn: Transaction, place: bytes, data: bytes) -> None:
        try:
            key = key_at(place, data)
            record = unpack(key, data)
        except RecordDamaged as damage:
            if self._rank <= _STRAY:
                self._damaged.setdefault(place, str(damage))
            return
        place = place_of(key)
        if self._expired.get(place, self._rank) < self._rank:
            return
        if record.is_expired(self._now):
            if txn.get(place) is None:
                self._expired.setdefault(place, self._rank)
            return
        self._expired.pop(place, None)
        former = sound_record(txn, key, place)
        if former is not None and (self._is_of_former_rank(place) or _lasts(former) >= _lasts(record)):
            return
        self._put(txn, key, place, record, former)

    def _is_of_former_rank(self, place: bytes) -> bool:
        return self._rank != _OF_THE_TREE and place not in self._new.get(self._rank, ())

    def _put(self, txn: Transaction, key: bytes, place: bytes, record: Record, former: Record | None) -> None:
        if former is not None and former.indexed:
            txn.delete(index_key(former.indexed, place))
        if self._rank != _OF_THE_TREE:
            self._new.setdefault(self._rank, set()).add(place)
        flags = record.flags & ~IS_AWAITED
        write(txn, key, place, record._replace(indexed=record.deadline, flags=flags))
        if record.deadline:
            txn.put(index_key(record.deadline, place), b"")

    def finish(self, report: "Salvaged") -> None:
        """Remove what turns out to be incomplete, and fill in the report."""
        for place, data in self._cut_records():
            self._drop_if_incomplete(place, data)
        with self._handle.begin() as txn:
            cures = cures_in(txn)
        for start in range(0, len(cures), _BATCH):
            with self._handle.begin(write=True) as txn:
                apply(txn, cures[start : start + _BATCH])
        with self._handle.begin() as txn:
            self._count(txn, report)

    def _cut_records(self) -> list[tuple[bytes, bytes]]:
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

    def _count(self, txn: Transaction, report: "Salvaged") -> None:
        present = 0
        for place in txn.cursor().iternext(values=False):
            present += place[:1] in (RECORD, HASHED)
            self._damaged.pop(place, None)  # another version of it could be read
        report.records = present
        report.expired = len(self._expired)
        report.strays = sum(txn.get(place) is not None for place in self._new.get(_STRAY, ()))
        report.freed = sum(
            txn.get(place) is not None for rank, new in self._new.items() if rank > _STRAY for place in new
        )
        report.damaged = sorted(self._damaged.values())
        known = self._expired.keys() | self._damaged.keys()
        lost = (place for place in self._indexed - known if txn.get(place) is None)
        report.lost = sorted(map(_gone, lost)) if report.is_certain else []


def _gone(place: bytes) -> str:
    if place.startswith(RECORD):
        return f"The record under {quoted(place[1:])} is gone."
    return f"A record under a key of more than {LONGEST_KEY} bytes is gone."


def _lasts(record: Record) -> float:
    """Return until when a record lives, by which the later one of two is told: both were to live as long."""
    return record.deadline or math.inf
