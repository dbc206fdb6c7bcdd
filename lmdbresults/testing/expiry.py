"""What a store promises about deadlines, sweeping, and clocks that go wrong."""

import math
from collections.abc import Callable

import pytest

from lmdbresults.store.base import Store, WriteTransaction
from lmdbresults.testing.clock import FakeClock
from lmdbresults.testing.hooks import Hooks, sweepable
from lmdbresults.testing.samples import sample
from lmdbresults.testing.waiting import heard

__all__ = ["Expiry", "Sweeping"]


class Expiry(Hooks):
    """Deadlines."""

    @pytest.mark.parametrize("size", [0, 100, 50_000])
    def test_an_expired_record_is_invisible_at_once(self, store: Store, size: int) -> None:
        keys = [b"get", b"delete", b"expire", b"add"]
        for key in keys:
            store.set(key, sample(size), ttl=self.second)
        self.pass_time(self.second)
        assert store.mget(keys) == [None] * 4
        assert store.get(b"get") is None
        assert store.ttl(b"get") is None
        assert store.delete(b"delete") is False
        assert store.expire(b"expire", 10.0) is False
        assert store.add(b"add", b"new") is True
        assert list(store.scan()) == list(store.range()) == [(b"add", b"new")]

    @pytest.mark.parametrize("ttl", [0.001, 0.5, 1.0, 86400.0])
    def test_a_record_lives_until_its_deadline_and_no_longer(self, store: Store, ttl: float) -> None:
        if ttl not in (0.5, 1.0):
            self.needs_fake_clock()
        ttl *= self.second
        store.set(b"key", b"value", ttl=ttl)
        self.pass_time(ttl * 0.75)
        assert store.get(b"key") == b"value"
        self.pass_time(ttl * 0.25)
        assert store.get(b"key") is None

    def test_ttl_is_the_time_that_is_left(self, store: Store) -> None:
        store.set(b"key", b"value", ttl=10.0 * self.second)
        self.pass_time(4.0 * self.second)
        assert store.ttl(b"key") == self.about(6.0 * self.second)

    @pytest.mark.parametrize("ttl", [None, 0, 0.0, math.inf])
    def test_a_record_without_ttl_never_expires(self, store: Store, ttl: float | None) -> None:
        store.set(b"key", b"value", ttl=ttl)
        assert store.ttl(b"key") == math.inf
        self.pass_time(1e9 if self.has_fake_clock else self.second)
        assert store.ttl(b"key") == math.inf
        assert store.get(b"key") == b"value"

    @pytest.mark.parametrize("ttl", [-1.0, -math.inf, math.nan])
    def test_a_ttl_that_is_negative_or_not_a_number_is_refused(self, store: Store, ttl: float) -> None:
        store.set(b"key", b"1", ttl=10.0)
        operations: list[Callable[[], object]] = [
            lambda: store.set(b"key", b"2", ttl=ttl),
            lambda: store.add(b"new", b"2", ttl=ttl),
            lambda: store.incr(b"key", ttl=ttl),
            lambda: store.expire(b"key", ttl),
        ]
        for operation in operations:
            with pytest.raises(ValueError, match="ttl"):
                operation()
        assert dict(store.scan()) == {b"key": b"1"}
        assert store.ttl(b"key") == self.about(10.0)

    @pytest.mark.parametrize("how", ["set", "expire"])
    @pytest.mark.parametrize(("first", "then"), [(10.0, 20.0), (20.0, 10.0), (None, 10.0), (10.0, None)])
    def test_the_last_ttl_counts(self, store: Store, how: str, first: float | None, then: float | None) -> None:
        store.set(b"key", b"value", ttl=first and first * self.second)
        self.pass_time(5.0 * self.second)
        ttl = then and then * self.second
        assert store.set(b"key", b"value", ttl=ttl) if how == "set" else store.expire(b"key", ttl)
        assert store.ttl(b"key") == (math.inf if ttl is None else self.about(ttl))
        self.pass_time(9.0 * self.second)
        assert store.get(b"key") == b"value"
        self.pass_time(11.0 * self.second)
        assert store.get(b"key") == (b"value" if then is None else None)


class Sweeping(Hooks):
    """The deletion of expired records by a store that is `Sweepable`."""

    def test_sweep_deletes_expired_records_and_no_others(self, store: Store) -> None:
        def fill(txn: WriteTransaction) -> None:
            for number in range(30):
                txn.set(b"short %d" % number, sample(number * 3000), ttl=self.second)
                txn.set(b"long %d" % number, sample(number * 3000), ttl=100.0)
                txn.set(b"never %d" % number, b"")

        sweep = sweepable(store).sweep
        store.update(fill)
        self.pass_time(self.second)
        assert sweep(limit=7) <= 7
        assert sweep(max_seconds=60.0) <= 30
        assert sweep() == 0
        kept = {b"long %d" % number: sample(number * 3000) for number in range(30)}
        assert dict(store.scan()) == kept | {b"never %d" % number: b"" for number in range(30)}

    def test_sweep_leaves_a_record_whose_deadline_was_put_off(self, store: Store) -> None:
        sweep = sweepable(store).sweep
        store.set(b"set", b"", ttl=self.second)
        store.set(b"expire", b"", ttl=self.second)
        store.set(b"set", b"value", ttl=20.0 * self.second)
        store.expire(b"expire", None)
        self.pass_time(self.second)
        sweep()
        assert dict(store.scan()) == {b"set": b"value", b"expire": b""}

    @pytest.mark.parametrize("by", ["sweep", "a write"])
    def test_an_expiry_is_a_change_once_it_is_swept(self, store: Store, by: str) -> None:
        sweep, subscription = sweepable(store).sweep, store.subscribe()
        store.set(b"key", b"...", ttl=self.second)
        subscription.add([b"key"])
        self.pass_time(self.second)
        if by == "sweep":
            sweep()
        else:
            store.set(b"other", b"")
        assert heard(store, subscription) == {b"key"}
        subscription.close()

    @pytest.mark.parametrize(
        ("writes", "records", "size"),
        [
            pytest.param(200, 1, 10, id="small values"),
            pytest.param(60, 1, 200_000, id="large values"),
            pytest.param(30, 20, 10, id="many records in a transaction"),
        ],
    )
    def test_a_store_that_is_written_to_stays_small_by_itself(
        self, store: Store, writes: int, records: int, size: int
    ) -> None:
        self.needs_fake_clock()
        sweep = sweepable(store).sweep
        for number in range(writes):
            keys = [b"%d %d" % (number, part) for part in range(records)]
            store.update(lambda txn, keys=keys: [txn.set(key, sample(size), ttl=5.0) for key in keys])  # type: ignore[misc]
            self.pass_time(1.0)
        assert sweep() <= 10 * records  # expired records that were still there

    def test_a_store_goes_on_sweeping_after_its_clock_was_set_back(self, store: Store, clock: FakeClock) -> None:
        self.needs_fake_clock()
        sweep = sweepable(store).sweep
        store.set(b"key", b"value")
        clock.set_back(3600.0)
        for number in range(100):
            store.set(b"%d" % number, b"value", ttl=5.0)
            self.pass_time(1.0)
        assert sweep() <= 10

    def test_a_clock_set_back_deletes_nothing(self, store: Store, clock: FakeClock) -> None:
        self.needs_fake_clock()
        sweep = sweepable(store).sweep
        store.set(b"key", b"value", ttl=10.0)
        clock.set_back(3600.0)
        store.set(b"brief", b"value", ttl=1.0)
        self.pass_time(1.0)
        sweep()
        assert store.mget([b"key", b"brief"]) == [b"value", None]
        self.pass_time(3599.0 + 10.0)
        assert store.get(b"key") is None

    def test_a_clock_that_was_ahead_for_a_while_harms_no_record_that_outlives_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        self.needs_fake_clock()
        sweep = sweepable(store).sweep
        store.set(b"long", b"value", ttl=7200.0)
        store.set(b"never", b"value")
        self.pass_time(3600.0)
        store.set(b"meanwhile", b"value", ttl=60.0)
        sweep()
        clock.set_back(3600.0)
        assert store.mget([b"long", b"never", b"meanwhile"]) == [b"value"] * 3
