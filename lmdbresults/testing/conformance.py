"""All the tests of a store in one class, with those of scanning and closing, and the fixtures."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Checkable, Store
from lmdbresults.testing.clock import FakeClock
from lmdbresults.testing.expiry import Expiry
from lmdbresults.testing.samples import VERBS, sample
from lmdbresults.testing.transactions import Transactions
from lmdbresults.testing.values import Counters, Values
from lmdbresults.testing.waiting import Waiting

__all__ = ["StoreConformance"]


class Scans:
    """Going through the store with `Store.scan`."""

    def test_scan_yields_every_pair_under_a_prefix(self, store: Any, clock: FakeClock) -> None:
        long = b"ab" * 300
        pairs = {b"ab": sample(50_000), b"abc": b"", long: b"long", long + b"c": sample(50_000)}
        others = {b"": b"empty", b"a": b"shorter", b"b": b"later", b"\xff": b"last", b"b" * 600: b"long"}
        for key, value in (pairs | others).items():
            store.set(key, value)
        assert dict(store.scan()) == pairs | others
        assert dict(store.scan(b"ab")) == pairs
        assert dict(store.scan(long)) == {long: b"long", long + b"c": sample(50_000)}
        assert [*store.scan(b"abcd"), *store.scan(long + b"d")] == []

    def test_scan_leaves_out_what_has_expired(self, store: Any, clock: FakeClock) -> None:
        for key in (b"short", b"long" * 200):
            store.set(key, b"expired", ttl=1.0)
            store.set(key + b"kept", b"kept", ttl=2.0)
        clock.advance(1.0)
        assert dict(store.scan()) == {b"shortkept": b"kept", b"long" * 200 + b"kept": b"kept"}

    def test_scan_misses_and_repeats_nothing_however_much_there_is(self, store: Any) -> None:
        keys = [b"k%d" % number for number in range(1300)] + [b"k%d" % number * 150 for number in range(700)]
        with store.write() as txn:
            for key in keys:
                txn.set(key, key[-5:])
        assert sorted(store.scan(b"k")) == sorted((key, key[-5:]) for key in keys)

    def test_scan_yields_once_what_was_there_all_along_whatever_changes_meanwhile(self, store: Any) -> None:
        kept = [b"k%04d" % number for number in range(0, 1200, 2)]
        with store.write() as txn:
            for number in range(1200):
                txn.set(b"k%04d" % number, b"")
        seen = []
        for number, (key, _) in enumerate(store.scan()):
            seen.append(key)
            if number % 100 == 0:  # delete behind and ahead, store before and after all others
                store.delete(b"k%04d" % (number + 1))
                store.delete(b"k%04d" % ((number + 601) % 1200))
                store.set(b"a%d" % number, b"")
                store.set(b"z%d" % number, b"")
        assert sorted(key for key in seen if key in kept) == kept


class Lifecycle:
    """Opening and closing."""

    def test_a_new_store_is_empty(self, store: Any) -> None:
        assert list(store.scan()) == []

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_store_that_was_closed_says_so(self, store: Any, verb: str) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreClosed):
            VERBS[verb](store)

    def test_a_with_block_closes_the_store(self, store: Any) -> None:
        with store as same:
            assert same is store
            store.set(b"key", b"value")
        with pytest.raises(StoreClosed):
            store.get(b"key")

    def test_an_exception_leaves_the_with_block_and_closes_the_store(self, store: Any) -> None:
        with pytest.raises(LookupError), store:
            raise LookupError
        with pytest.raises(StoreClosed):
            store.get(b"key")


class StoreConformance(Values, Counters, Expiry, Transactions, Waiting, Scans, Lifecycle):
    """Subclass it and override `make_store`, or the fixture ``store``. Every test ends with `Store.check`."""

    def make_store(self, clock: FakeClock) -> Store:
        """Return a new empty store that tells the time by ``clock``."""
        raise NotImplementedError(f"{type(self).__name__} has to override make_store(), or the fixture store.")

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock of the store under test."""
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Store]:
        """The store under test."""
        with self.make_store(clock) as store:
            yield store

    @pytest.fixture(autouse=True)
    def nothing_is_amiss_afterwards(self, store: Any) -> Iterator[None]:
        """Check the store after each test, unless the test has closed it."""
        yield
        if not isinstance(store, Checkable):
            return
        try:
            problems = store.check()
        except StoreClosed:
            return
        assert problems == []
