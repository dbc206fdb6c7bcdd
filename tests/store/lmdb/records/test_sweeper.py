"""Sweeps of many records: exact, harmless to records stored meanwhile, and in batches that are short."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.errors import StoreFull
from lmdbresults.store.lmdb.records.sweeper import Batches
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
    assert store.stats().records == 1000
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

    def step(self, raw: Any, size: int) -> int:
        if size > self.most:
            raise StoreFull("There is no space.")
        self._count = size
        return size

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def take(self, count: int) -> None:
        batches = Batches(self, timer=lambda: self.now, sleep=self.sleep)  # type: ignore[arg-type]
        while count > 0:
            count -= batches.run(self.step, count)


@pytest.mark.parametrize("each", [1e-6, 1e-5, 1e-4], ids=["fast", "middling", "slow"])
def test_a_batch_is_short_however_slow_the_disk_is(each: float):
    disk = Disk(each)
    disk.take(20_000)
    assert sum(disk.sizes) == 20_000
    assert max(disk.held) < 0.025
    assert disk.slept >= 0.0005 * (len(disk.held) - 1)


def test_beside_other_writers_batches_are_shorter_and_pause_as_long_as_they_took():
    disk = Disk(1e-5)
    disk.others = lambda: True
    disk.take(20_000)
    assert max(disk.held[3:]) < 0.001
    assert disk.slept >= 0.9 * sum(disk.held)


def test_batches_have_a_smallest_size_where_any_transaction_takes_long():
    disk = Disk(1e-5, once=0.1)
    disk.take(1_600)
    assert min(disk.sizes) >= 16


def test_batches_become_smaller_where_there_is_no_space():
    disk = Disk(1e-5, most=3)
    disk.take(100)
    assert sum(disk.sizes) == 100
    with pytest.raises(StoreFull):
        Disk(1e-5, most=0).take(100)
