"""The layout of records in the file, which other versions will read; and that damage is reported and never served."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.maintenance.check import check
from lmdbresults.store.lmdb.records import records
from lmdbresults.store.lmdb.records.hand import HAND_KEY
from lmdbresults.store.lmdb.records.layout import pack
from lmdbresults.testing import FakeClock, sample

GOLDEN = Path(__file__).parents[3] / "golden"

LONG = b"k" * 600
#: A record of each kind: key, value, ttl.
RECORDS = [
    (b"plain", b"value", None),
    (b"expiring", b"value", 60.0),
    (LONG, b"value", 60.0),
    (b"empty", b"", None),
    (b"cut", sample(50_000), 60.0),
    (LONG + b"cut", sample(50_000), None),
]
KINDS = ["plain", "expiring", "long key", "empty", "cut", "long key and cut"]


@contextmanager
def raw(path: str) -> Iterator[lmdb.Transaction]:
    """A transaction on the file without a store, which must be closed."""
    with lmdb.open(path, subdir=False) as environment, environment.begin(write=True) as txn:
        yield txn


def places(txn: lmdb.Transaction, *regions: bytes) -> list[bytes]:
    return [place for place in txn.cursor().iternext(values=False) if place[:1] in regions]


def fill(path: str, clock: FakeClock, *records: tuple[bytes, bytes, float | None]) -> None:
    with open_store(path, durability="none", clock=clock) as store:
        for key, value, ttl in records:
            store.set(key, value, ttl)


@contextmanager
def reopened(path: str, clock: FakeClock) -> Iterator[LMDBStore]:
    with open_store(path, durability="none", clock=clock) as store:
        yield store


# -- the layout --------------------------------------------------------------------------------------------------------


def golden_tree(version: int) -> dict[bytes, bytes]:
    lines = (GOLDEN / f"store-{version}.hex").read_text().splitlines()
    return dict(map(bytes.fromhex, line.split(":")) for line in lines if not line.startswith("#"))


def write_golden_file(path: str, version: int) -> None:
    with raw(path) as txn:
        for place, data in golden_tree(version).items():
            txn.put(place, data)


def test_records_are_written_as_in_the_golden_file(path: str, clock: FakeClock):
    fill(path, clock, *RECORDS[:4])
    with raw(path) as txn:
        assert dict(txn.cursor()) == golden_tree(2)


@pytest.mark.parametrize("version", [1, 2])
def test_records_of_a_golden_file_are_read(path: str, clock: FakeClock, version: int):
    write_golden_file(path, version)
    with reopened(path, clock) as store:
        assert dict(store.scan()) == {key: value for key, value, _ in RECORDS[:4]}
        assert [store.get(key) for key, _, _ in RECORDS[:4]] == [value for _, value, _ in RECORDS[:4]]
        assert store.ttl(LONG) == pytest.approx(60.0)
        assert store.check() == []
        assert store.stats().records == 4


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=KINDS)
def test_a_changed_or_missing_byte_anywhere_in_a_record_is_detected(path: str, clock: FakeClock, record):
    fill(path, clock, record)
    with raw(path) as txn:
        [place] = places(txn, b"k", b"h")
        data = txn.get(place)
        for position in range(len(data)):
            changed = data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :]
            for damaged in (changed, data[:position]):
                txn.put(place, damaged)
                with pytest.raises(RecordDamaged):
                    records.lookup(txn, record[0], clock())
                assert list(check(txn)) != []


def lose_a_chunk(txn: lmdb.Transaction, chunks: list[bytes]) -> None:
    txn.delete(chunks[1])


def swap_two_chunks(txn: lmdb.Transaction, chunks: list[bytes]) -> None:
    first, second = txn.get(chunks[0]), txn.get(chunks[1])
    txn.put(chunks[0], second)
    txn.put(chunks[1], first)


def shorten_a_chunk(txn: lmdb.Transaction, chunks: list[bytes]) -> None:
    txn.put(chunks[1], txn.get(chunks[1])[:-1])


def change_a_chunk(txn: lmdb.Transaction, chunks: list[bytes]) -> None:
    txn.put(chunks[-1], txn.get(chunks[-1])[:-1] + b"\0")


def add_a_chunk(txn: lmdb.Transaction, chunks: list[bytes]) -> None:
    txn.put(chunks[-1][:-1] + b"\xff", b"more")


@pytest.mark.parametrize(
    "damage", [lose_a_chunk, swap_two_chunks, shorten_a_chunk, change_a_chunk, add_a_chunk], ids=lambda f: f.__name__
)
def test_damage_to_the_chunks_of_a_large_value_is_detected(path: str, clock: FakeClock, damage):
    fill(path, clock, (b"key", sample(50_000), None))
    with raw(path) as txn:
        damage(txn, places(txn, b"p"))
    with reopened(path, clock) as store:
        for read in (lambda: store.get(b"key"), lambda: store.mget([b"key"]), lambda: list(store.scan())):
            with pytest.raises(RecordDamaged, match="b'key'"):
                read()
        assert "b'key'" in store.check()[0]


def test_a_record_that_was_moved_to_another_key_is_detected(path: str, clock: FakeClock):
    fill(path, clock, (b"ours", b"value", None), (b"theirs", b"secret", None))
    with raw(path) as txn:
        txn.put(b"kours", txn.get(b"ktheirs"))
    with reopened(path, clock) as store:
        with pytest.raises(RecordDamaged, match=r"b'ours'.*Delete the key, or restore a backup"):
            store.get(b"ours")
        assert store.get(b"theirs") == b"secret"


@pytest.mark.parametrize("cure", ["delete", "set"])
def test_a_damaged_record_can_be_deleted_or_replaced(path: str, clock: FakeClock, cure: str):
    fill(path, clock, (b"key", b"value", 60.0))
    with raw(path) as txn:
        txn.put(b"kkey", txn.get(b"kkey")[:-1])
    with reopened(path, clock) as store:
        assert store.delete(b"key") if cure == "delete" else store.set(b"key", b"new")
        assert store.get(b"key") == (None if cure == "delete" else b"new")
        assert store.check() == []


def test_a_sweep_skips_a_damaged_record_and_leaves_it_to_check(path: str, clock: FakeClock):
    fill(path, clock, (b"key", b"value", 60.0), (b"other", b"value", 60.0))
    with raw(path) as txn:
        txn.put(b"kkey", txn.get(b"kkey")[:-1])
    clock.advance(60.0)
    with reopened(path, clock) as store:
        assert store.sweep() == 1
        assert len(store.check()) == 1
        with pytest.raises(RecordDamaged):
            store.get(b"key")


# -- what check finds --------------------------------------------------------------------------------------------------


def put_the_next_look_off(txn: lmdb.Transaction) -> None:
    txn.put(HAND_KEY, pack(HAND_KEY, 1e12, 0, b""))


def lose_a_large_record(txn: lmdb.Transaction) -> None:
    txn.delete(b"kcut")


def misplace_a_long_key(txn: lmdb.Transaction) -> None:
    place = places(txn, b"h")[0]
    txn.put(b"h" + bytes(32), txn.get(place))


def add_an_unknown_key(txn: lmdb.Transaction) -> None:
    txn.put(b"?", b"")


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (put_the_next_look_off, "expires before the sweep will look at it"),
        (lose_a_large_record, "belongs to no record"),
        (misplace_a_long_key, "is stored under another key"),
        (add_an_unknown_key, "is of a kind that this version does not know"),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_check_finds_every_kind_of_inconsistency(path: str, clock: FakeClock, damage, finding: str):
    fill(path, clock, *RECORDS)
    with raw(path) as txn:
        damage(txn)
    with reopened(path, clock) as store:
        assert any(finding in problem for problem in store.check())


def test_check_finds_nothing_in_a_sound_store(path: str, clock: FakeClock):
    fill(path, clock, *RECORDS)
    with reopened(path, clock) as store:
        assert store.check() == []
        clock.advance(120.0)
        assert store.check() == []
