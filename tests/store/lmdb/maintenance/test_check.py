"""Damaged records: the sound ones can be read, the damaged ones are reported, orphaned data is repaired."""

from contextlib import nullcontext

import lmdb
import pytest

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.maintenance.check import repair, repairable
from lmdbresults.testing import FakeClock, sample
from tests.store.lmdb.records.test_records import LONG, RECORDS, fill, places, raw, reopened


def damage(txn: lmdb.Transaction, place: bytes) -> None:
    data = bytearray(txn.get(place))
    data[-1] ^= 1
    txn.put(place, bytes(data))


@pytest.mark.parametrize("within", ["store", "transaction"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_scan_yields_all_sound_records_then_raises_for_the_damaged_ones(
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


def test_damage_under_another_prefix_does_not_affect_a_scan(path: str, clock: FakeClock):
    fill(path, clock, (b"a 1", b"value", None), (b"b 1", b"value", None))
    with raw(path) as txn:
        damage(txn, b"kb 1")
    with reopened(path, clock) as store:
        assert list(store.scan(b"a")) == [(b"a 1", b"value")]


def test_repair_deletes_orphaned_data(path: str, clock: FakeClock):
    fill(path, clock, *RECORDS, (b"lost", sample(50_000), 60.0))
    with raw(path) as txn:
        txn.delete(b"klost")  # leaves its chunks
    with reopened(path, clock) as store:
        kept = dict(store.scan())
        problems = store.check()
        assert len(problems) == 4
        assert sorted(store.repair()) == sorted(problems)
        assert store.check() == []
        assert store.repair() == []
        assert dict(store.scan()) == kept


def test_repair_keeps_a_damaged_record(path: str, clock: FakeClock):
    fill(path, clock, (b"key", sample(50_000), 60.0))
    with raw(path) as txn:
        damage(txn, b"kkey")
    with reopened(path, clock) as store:
        assert len(store.repair()) == 4  # its chunks
        (problem,) = store.check()
        assert "Delete the key, or restore a backup" in problem
        store.delete(b"key")
        assert store.check() == []


def test_an_error_has_the_whole_key_and_its_message_a_shortened_one(path: str, clock: FakeClock):
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


def test_repair_skips_problems_that_are_gone(path: str, clock: FakeClock):
    fill(path, clock, (b"key", sample(20_000), 60.0))
    with raw(path) as txn:
        txn.delete(b"kkey")
        problems = repairable(txn)
        assert len(repair(txn, problems)) == 2
        assert repair(txn, problems) == repairable(txn) == []


def test_a_deep_check_includes_the_records(path: str, clock: FakeClock):
    fill(path, clock, (b"key", b"value", None))
    with raw(path) as txn:
        damage(txn, b"kkey")
    with reopened(path, clock) as store:
        assert store.check(deep=True) == store.check() != []
