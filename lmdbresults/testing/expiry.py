"""What a store does with deadlines, and with clocks that go wrong."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from lmdbresults.testing.clock import FakeClock
from lmdbresults.testing.samples import sample

__all__ = ["Expiry"]


class Expiry:
    """Deadlines, and the sweeping of what has passed them."""

    @pytest.mark.parametrize("size", [0, 100, 50_000])
    def test_what_has_expired_is_invisible_at_once(self, store: Any, clock: FakeClock, size: int) -> None:
        keys = [b"get", b"delete", b"expire", b"add"]
        for key in keys:
            store.set(key, sample(size), ttl=10.0)
        clock.advance(10.0)
        assert store.mget(keys) == [None] * 4
        assert store.get(b"get") is None
        assert store.ttl(b"get") is None
        assert store.delete(b"delete") is False
        assert store.expire(b"expire", 10.0) is False
        assert store.add(b"add", b"new") is True
        assert list(store.scan()) == [(b"add", b"new")]

    @pytest.mark.parametrize("ttl", [0.001, 0.5, 1.0, 86400.0])
    def test_a_record_lives_until_its_deadline_and_no_longer(self, store: Any, clock: FakeClock, ttl: float) -> None:
        store.set(b"key", b"value", ttl=ttl)
        clock.advance(ttl * 0.75)
        assert store.get(b"key") == b"value"
        assert store.ttl(b"key") == pytest.approx(ttl * 0.25, rel=1e-2)
        clock.advance(ttl * 0.25)
        assert store.get(b"key") is None

    @pytest.mark.parametrize("ttl", [None, 0, 0.0, math.inf])
    def test_no_ttl_means_never(self, store: Any, clock: FakeClock, ttl: float | None) -> None:
        store.set(b"key", b"value", ttl=ttl)
        clock.advance(1e9)
        store.sweep()
        assert store.ttl(b"key") == math.inf
        assert store.get(b"key") == b"value"

    @pytest.mark.parametrize("ttl", [-1.0, -math.inf, math.nan])
    def test_a_ttl_that_is_negative_or_no_number_is_refused(self, store: Any, ttl: float) -> None:
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
        assert store.ttl(b"key") == pytest.approx(10.0)

    @pytest.mark.parametrize("how", ["set", "expire"])
    @pytest.mark.parametrize(("first", "then"), [(10.0, 20.0), (20.0, 10.0), (None, 10.0), (10.0, None)])
    def test_the_last_ttl_counts(
        self, store: Any, clock: FakeClock, how: str, first: float | None, then: float | None
    ) -> None:
        store.set(b"key", b"value", ttl=first)
        clock.advance(5.0)
        assert store.set(b"key", b"value", ttl=then) if how == "set" else store.expire(b"key", then)
        assert store.ttl(b"key") == (math.inf if then is None else pytest.approx(then))
        clock.advance(9.0)
        store.sweep()
        assert store.get(b"key") == b"value"
        clock.advance(11.0)
        assert store.get(b"key") == (b"value" if then is None else None)

    def test_a_clock_set_back_leaves_every_record_there(self, store: Any, clock: FakeClock) -> None:
        store.set(b"key", b"value", ttl=10.0)
        clock.set_back(3600.0)
        store.set(b"brief", b"value", ttl=1.0)
        clock.advance(1.0)
        store.sweep()
        assert store.mget([b"key", b"brief"]) == [b"value", None]
        clock.advance(3599.0 + 10.0)
        assert store.get(b"key") is None

    def test_a_clock_that_was_ahead_for_a_while_harms_nothing_that_outlives_it(
        self, store: Any, clock: FakeClock
    ) -> None:
        store.set(b"long", b"value", ttl=7200.0)
        store.set(b"never", b"value")
        clock.advance(3600.0)
        store.set(b"meanwhile", b"value", ttl=60.0)
        store.sweep()
        clock.set_back(3600.0)
        assert store.mget([b"long", b"never", b"meanwhile"]) == [b"value"] * 3

    def test_sweep_deletes_what_has_expired_and_nothing_else(self, store: Any, clock: FakeClock) -> None:
        with store.write() as txn:
            for number in range(30):
                txn.set(b"short %d" % number, sample(number * 3000), ttl=1.0)
                txn.set(b"long %d" % number, sample(number * 3000), ttl=100.0)
        clock.advance(1.0)
        assert store.sweep(limit=7) <= 7
        assert store.sweep(max_seconds=60.0) <= 30
        assert store.sweep() == 0
        assert dict(store.scan()) == {b"long %d" % number: sample(number * 3000) for number in range(30)}

    @pytest.mark.parametrize(
        ("writes", "records", "size"),
        [
            pytest.param(200, 1, 10, id="small values"),
            pytest.param(60, 1, 200_000, id="large values"),
            pytest.param(30, 20, 10, id="many records in a transaction"),
        ],
    )
    def test_a_store_that_is_written_at_a_steady_rate_stays_small_by_itself(
        self, store: Any, clock: FakeClock, writes: int, records: int, size: int
    ) -> None:
        for number in range(writes):
            with store.write() as txn:
                for part in range(records):
                    txn.set(b"%d %d" % (number, part), sample(size), ttl=5.0)
            clock.advance(1.0)
        assert store.sweep() <= 10 * records  # how much expired and was still there

    def test_a_store_goes_on_sweeping_itself_after_the_clock_was_set_back(self, store: Any, clock: FakeClock) -> None:
        store.set(b"key", b"value")
        clock.set_back(3600.0)
        for number in range(100):
            store.set(b"%d" % number, b"value", ttl=5.0)
            clock.advance(1.0)
        assert store.sweep() <= 10
