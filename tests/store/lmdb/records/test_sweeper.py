"""Sweeps of many records: exact, harmless to records stored meanwhile, and in batches that are short."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.errors import StoreFull
from lmdbresults.store.lmdb.records import expiry, expiry_index
from lmdbresults.store.lmdb.records.sweeper import Batches
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.testing import FakeClock, sample

LONG = b"k" * 600


def fill(store: LMDBStore, count: int) -> int:
    """Store so many records of each kind; return how many of all expire within a second."""
    with store.write() as txn:
        for number in range(count):
            txn.set(b"plain %d" % number, b"value", ttl=1.0)
            txn.set(LONG + b"%d" % number, b"value", ttl=1.0)
            txn.set(b"never %d" % number, b"value")
            txn.set(b"later %d" % number, b"value", ttl=1.0)
            txn.expire(b"later %d" % number, 60.0)
        txn.set(b"cut", sample(50_000), ttl=1.0)
    return 2 * count + 1


def test_a_sweep_deletes_expired_records_and_no_others(store: LMDBStore, clock: FakeClock):
    expected = fill(store, 500)
    clock.advance(1.0)
    assert store.sweep() == expected
    assert len(list(store.scan(b"never"))) == len(list(store.scan(b"later"))) == 500
    assert store.stats().entries == 1 + 500 + 2 * 500  # the mark of the file; records with a deadline are indexed
    assert store.check() == []


def test_a_sweep_deletes_as_many_records_as_its_limit_says(store: LMDBStore, clock: FakeClock):
    expected = fill(store, 500)
    clock.advance(1.0)
    assert [store.sweep(limit=limit) for limit in (0, 1, 200, 300)] == [0, 1, 200, 300]
    assert store.check() == []
    assert store.sweep() == expected - 501


def test_a_sweep_without_time_deletes_a_little(store: LMDBStore, clock: FakeClock):
    expected = fill(store, 500)
    clock.advance(1.0)
    swept = [store.sweep(max_seconds=0) for _ in range(expected)]
    assert 0 < swept[0] < expected
    assert sum(swept) == expected
    assert store.check() == []


def test_a_sweep_of_a_followed_record_notifies_its_subscribers(store: LMDBStore, clock: FakeClock):
    subscription = store.subscribe()
    fill(store, 100)
    subscription.add([b"plain 7"])
    clock.advance(1.0)
    store.sweep()
    assert store.get(b"plain 7") is None
    assert set(subscription.drain() or ()) == {b"plain 7"}
    subscription.close()


def break_off(store: LMDBStore) -> int:
    """Do what a sweep has done that is killed before it comes to the index; return how many records it has deleted."""

    def reap(raw: Transaction) -> int:
        due = expiry_index.first_due(raw, store._clock(), 1000)
        return len(expiry.reap(raw, due, store._clock()))

    return store._environment.write(reap)


def test_an_interrupted_sweep_leaves_a_sound_store(store: LMDBStore, clock: FakeClock):
    expected = fill(store, 100)
    clock.advance(1.0)
    gone = break_off(store)
    assert 0 < gone < expected
    assert store.check() == []
    assert store.sweep() == expected - gone
    assert store.stats().entries == 1 + 100 + 2 * 100
    assert store.check() == []


def test_a_record_stored_again_survives_the_rest_of_a_sweep(store: LMDBStore, clock: FakeClock):
    fill(store, 100)
    clock.advance(1.0)
    break_off(store)
    store.set(b"plain 7", b"new", ttl=60.0)
    store.set(b"plain 8", b"new")
    store.sweep()
    assert store.mget([b"plain 7", b"plain 8"]) == [b"new", b"new"]
    assert store.check() == []
    clock.advance(60.0)
    assert store.mget([b"plain 7", b"plain 8"]) == [None, b"new"]
    store.sweep()
    assert store.check() == []


@pytest.mark.parametrize("count", [0, 1, 63, 12_799, 12_801, 60_000])
def test_entries_are_sorted_in_the_order_of_the_tree_in_parts_of_bounded_size(count: int):
    random = Random(count)
    index_keys = sorted(b"x" + random.randbytes(8) + b"k%x" % random.getrandbits(64) for _ in range(count))
    parts = list(expiry.in_order_of_the_tree(index_keys))
    assert [index_key for part in parts for index_key in part] == sorted(index_keys, key=lambda key: key[9:])
    assert max(map(len, parts)) < 25_000


# -- batches -----------------------------------------------------------------------------------------------------------


class Disk:
    """Stands for an environment: a transaction takes so many seconds, and so many more for each record."""

    def __init__(self, each: float, once: float = 0.0, most: float = math.inf) -> None:
        self.each, self.once, self.most = each, once, most
        self.now = self.slept = 0.0
        self._id = 0
        self.held: list[float] = []
        self.sizes: list[int] = []
        self.others: Callable[[], bool] = lambda: False

    def write(self, operation: Callable[..., Any], *args: Any, durably: bool) -> Any:
        self._count = 0
        began = self.now
        self._id += 2 if self.others() else 1
        returned = operation(self, *args)
        self.now += self.once + self.each * self._count
        self.held.append(self.now - began)
        self.sizes.append(self._count)
        return returned

    @property
    def file(self) -> "Disk":
        return self

    def reserve_for_delete(self, raw: Any) -> None:
        pass

    def id(self) -> int:
        return self._id

    def step(self, raw: Any, batch: Any) -> Any:
        if len(batch) > self.most:
            raise StoreFull("There is no space.")
        self._count = len(batch)
        return batch

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def take_all(self, count: int, until: float = math.inf) -> list[bytes]:
        batches = Batches(self, timer=lambda: self.now, sleep=self.sleep)  # type: ignore[arg-type]
        return batches.over([b"%d" % number for number in range(count)], self.step, until)


@pytest.mark.parametrize("each", [1e-6, 1e-5, 1e-4], ids=["fast", "middling", "slow"])
def test_a_batch_is_short_however_slow_the_disk_is(each: float):
    disk = Disk(each)
    assert len(disk.take_all(20_000)) == 20_000
    assert max(disk.held) < 0.025
    assert disk.slept >= 0.0005 * (len(disk.held) - 1)


def test_beside_other_writers_batches_are_shorter_and_pause_as_long_as_they_took():
    disk = Disk(1e-5)
    disk.others = lambda: True
    disk.take_all(20_000)
    assert max(disk.held[3:]) < 0.001
    assert disk.slept >= 0.9 * sum(disk.held)


def test_batches_have_a_smallest_size_where_any_transaction_takes_long():
    disk = Disk(1e-5, once=0.1)
    disk.take_all(2_000)
    assert min(disk.sizes) >= 16


def test_batches_become_smaller_where_there_is_no_space():
    disk = Disk(1e-5, most=3)
    assert len(disk.take_all(100)) == 100
    with pytest.raises(StoreFull):
        Disk(1e-5, most=0).take_all(100)


def test_one_batch_is_run_even_if_time_is_up():
    disk = Disk(1e-5)
    assert 0 < len(disk.take_all(20_000, until=0.0)) < 20_000
    assert len(disk.held) == 1
