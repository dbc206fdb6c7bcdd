"""A store with damaged records: what can be read is read, what cannot is said, leftovers can be removed."""

import struct
from contextlib import nullcontext

import lmdb
import pytest

from lmdbresults.errors import RecordDamaged
from lmdbresults.testing import FakeClock, sample
from tests.store.lmdb.records.test_records import LONG, RECORDS, fill, places, raw, reopened


def damage(txn: lmdb.Transaction, place: bytes) -> None:
    data = bytearray(txn.get(place))
    data[-1] ^= 1
    txn.put(place, bytes(data))


@pytest.mark.parametrize("within", ["store", "transaction"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_scan_yields_what_is_sound_and_raises_for_the_rest_at_the_end(
    path: str, clock: FakeClock, within: str, number: int
):
    fill(path, clock, *((b"key %04d" % n, b"value", None) for n in range(1200)), (LONG, b"value", None))
    with raw(path) as txn:
        for place in [b"kkey 0000", b"kkey 0700", places(txn, b"h")[0]][:number]:
            damage(txn, place)
    found: list[bytes] = []
    with (
        reopened(path, clock) as store,
        nullcontext(store) if within == "store" else store.read() as source,
        pytest.raises(RecordDamaged) as caught,
    ):
        found.extend(key for key, _ in source.scan())
    assert len(found) == 1201 - number
    assert ("So are 2 more" in str(caught.value)) is (number == 3)


def test_a_scan_of_what_is_sound_does_not_mind_damage_elsewhere(path: str, clock: FakeClock):
    fill(path, clock, (b"a 1", b"value", None), (b"b 1", b"value", None))
    with raw(path) as txn:
        damage(txn, b"kb 1")
    with reopened(path, clock) as store:
        assert list(store.scan(b"a")) == [(b"a 1", b"value")]


def test_repair_removes_what_belongs_to_nobody_and_indexes_what_is_not(path: str, clock: FakeClock):
    fill(path, clock, *RECORDS, (b"lost", sample(50_000), 60.0), (b"unindexed", b"value", 90.0))
    with raw(path) as txn:
        txn.delete(b"klost")  # its pieces, and its entry in the index, stay
        txn.delete(next(place for place in places(txn, b"x") if place.endswith(b"unindexed")))
        txn.put(b"w" + bytes(24), b"f")
    with reopened(path, clock) as store:
        kept = dict(store.scan())
        problems = store.check()
        assert sorted(store.repair()) == sorted(problems)
        assert store.check() == []
        assert store.repair() == []
        assert dict(store.scan()) == kept
        clock.advance(90.0)
        store.sweep()
        assert store.get(b"unindexed") is None
        assert store.check() == []


def test_repair_leaves_a_damaged_record_to_be_decided_about(path: str, clock: FakeClock):
    fill(path, clock, (b"key", sample(50_000), 60.0))
    with raw(path) as txn:
        damage(txn, b"kkey")
    with reopened(path, clock) as store:
        assert len(store.repair()) == 5  # four pieces and an entry in the index
        (problem,) = store.check()
        assert "Delete the key, or restore a backup" in problem
        store.delete(b"key")
        assert store.check() == []


def test_an_error_has_the_whole_key_where_its_message_has_a_part(path: str, clock: FakeClock):
    key = b"celery-task-meta-" + b"id" * 200
    fill(path, clock, (key, b"value", None))
    with raw(path) as txn:
        damage(txn, b"k" + key)
    with reopened(path, clock) as store:
        for look in (lambda: store.get(key), lambda: list(store.scan())):
            with pytest.raises(RecordDamaged, match=r"\(417 bytes\) is damaged: .* Delete the key") as caught:
                look()
        (problem,) = store.check()
        assert max(len(problem), len(str(caught.value))) < 250
        store.delete(caught.value.key)
        assert store.check() == []


def test_repair_leaves_what_others_have_put_right_meanwhile(path: str, clock: FakeClock):
    from lmdbresults.store.lmdb.maintenance.check import apply, cures_in

    fill(path, clock, (b"key", b"value", 60.0))
    with raw(path) as txn:
        record = txn.get(b"kkey")
        txn.delete(b"kkey")
    with raw(path) as txn:
        cures = cures_in(txn)
        txn.put(b"kkey", record)
        assert len(cures) == 1
        assert apply(txn, cures) == []
        assert cures_in(txn) == []


def test_a_deep_check_looks_at_records_and_pages_too(path: str, clock: FakeClock):
    fill(path, clock, (b"key", b"value", None))
    with raw(path) as txn:
        damage(txn, b"kkey")
    with reopened(path, clock) as store:
        assert store.check(deep=True) == store.check() != []


def test_an_index_entry_that_is_too_short_is_found_and_removed(path: str, clock: FakeClock):
    fill(path, clock, (b"key", b"value", None))
    with raw(path) as txn:
        txn.put(b"x123", b"")
        txn.put(b"x" + struct.pack(">d", 1.0), b"")
    with reopened(path, clock) as store:
        assert len(store.repair()) == 2
        assert store.check() == []
