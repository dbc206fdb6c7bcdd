"""What a store promises about transactions and threads."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lmdbresults.errors import NestedTransaction, StoreClosed
from lmdbresults.store.base import WriteTransaction
from lmdbresults.testing.samples import READING, VERBS, WRITING, in_threads, sample, through

__all__ = ["Transactions"]


class Transactions:
    """Reading, writing and updating, in one thread and in many."""

    def test_write_keeps_everything_at_its_end(self, store: Any) -> None:
        with store.write() as txn:
            txn.set(b"a", b"1")
            txn.incr(b"b", 2)
        assert store.mget([b"a", b"b"]) == [b"1", b"2"]

    def test_a_transaction_reads_its_own_writes(self, store: Any) -> None:
        with store.write() as txn:
            txn.set(b"a", sample(50_000), ttl=10.0)
            assert txn.get(b"a") == sample(50_000)
            assert txn.add(b"a", b"other") is False
            assert [txn.incr(b"b"), txn.incr(b"b")] == [1, 2]
            assert txn.expire(b"a", None) is True
            assert txn.ttl(b"a") == math.inf
            assert txn.delete(b"b") is True
            assert txn.mget([b"a", b"b"]) == [sample(50_000), None]
            assert list(txn.scan()) == [(b"a", sample(50_000))]

    @pytest.mark.parametrize("door", ["write", "update"])
    def test_an_exception_undoes_the_whole_transaction(self, store: Any, door: str) -> None:
        before = {b"deleted": sample(50_000), b"counted": b"5", b"replaced": b"old", b"expiring": b"kept"}
        for key, value in before.items():
            store.set(key, value)

        def fail_late(txn: WriteTransaction) -> None:
            txn.delete(b"deleted")
            txn.incr(b"counted")
            txn.set(b"replaced", sample(50_000), ttl=1.0)
            txn.add(b"added", b"new")
            txn.expire(b"expiring", 1.0)
            raise LookupError

        with pytest.raises(LookupError):
            through(store, door, fail_late)
        assert dict(store.scan()) == before
        assert [store.ttl(key) for key in before] == [math.inf] * 4

    def test_update_returns_what_the_operation_returns(self, store: Any) -> None:
        assert store.update(lambda txn: [txn.incr(b"key"), txn.incr(b"key")]) == [1, 2]
        assert store.get(b"key") == b"2"

    def test_read_shows_one_moment_whatever_is_written_meanwhile(self, store: Any) -> None:
        store.set(b"a", b"old")
        with store.read() as txn:
            in_threads(1, lambda: [store.set(key, b"new") for key in (b"a", b"b")])
            assert txn.mget([b"a", b"b"]) == [b"old", None]
            assert txn.ttl(b"b") is None
            assert list(txn.scan()) == [(b"a", b"old")]
        assert store.mget([b"a", b"b"]) == [b"new", b"new"]

    @pytest.mark.parametrize("inner", VERBS)
    @pytest.mark.parametrize("outer", ["read", "write", "update"])
    def test_a_transaction_inside_another_is_refused_and_the_outer_one_goes_on(
        self, store: Any, outer: str, inner: str
    ) -> None:
        def nest(txn: Any) -> None:
            with pytest.raises(NestedTransaction):
                VERBS[inner](store)
            assert txn.get(b"key") == b"1"

        store.set(b"key", b"1")
        through(store, outer, nest)
        assert dict(store.scan()) == {b"key": b"1"}

    @pytest.mark.parametrize(
        ("door", "verb"),
        [(door, verb) for door in ("read", "view") for verb in READING]
        + [(door, verb) for door in ("write", "update") for verb in (*READING, *WRITING)],
    )
    def test_a_transaction_is_of_no_use_after_its_end(self, store: Any, door: str, verb: str) -> None:
        ended: Any = through(store, door, lambda txn: txn)
        with pytest.raises(StoreClosed):
            VERBS[verb](ended)
        assert list(store.scan()) == []

    def test_a_transaction_that_was_undone_is_of_no_use_either(self, store: Any) -> None:
        with pytest.raises(LookupError), store.write() as txn:
            raise LookupError
        with pytest.raises(StoreClosed):
            txn.set(b"key", b"value")
        assert store.set(b"key", b"value") is True

    def test_increments_from_many_threads_all_count(self, store: Any) -> None:
        counts = in_threads(4, lambda: [store.incr(b"key") for _ in range(25)])
        assert sorted(count for thread in counts for count in thread) == list(range(1, 101))

    def test_of_many_threads_that_add_one_succeeds(self, store: Any) -> None:
        won = in_threads(4, lambda: [store.add(b"%d" % number, b"") for number in range(20)])
        assert [sum(winners) for winners in zip(*won, strict=True)] == [1] * 20

    def test_no_reader_sees_half_a_transaction(self, store: Any) -> None:
        def move(txn: WriteTransaction) -> None:
            txn.incr(b"from", -1)
            txn.incr(b"to", 1)

        def total() -> int:
            return sum(int(value or b"-1") for value in store.mget([b"from", b"to"]))

        store.set(b"from", b"100")
        store.set(b"to", b"0")
        with ThreadPoolExecutor(1) as pool:
            moved = pool.submit(lambda: [store.update(move) for _ in range(100)])
            totals = [total()]
            while not moved.done():
                totals.append(total())
        assert set(totals) == {100}
        assert store.mget([b"from", b"to"]) == [b"0", b"100"]
