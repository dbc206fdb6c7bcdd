"""What a store promises about transactions and threads."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from lmdbresults.errors import NestedTransaction, StoreClosed
from lmdbresults.store.base import ReadTransaction, Store, WriteTransaction
from lmdbresults.testing.hooks import Hooks, interactive
from lmdbresults.testing.samples import READING, VERBS, WRITING, in_threads, sample

__all__ = ["Blocks", "Transactions"]


class Transactions(Hooks):
    """`Store.view` and `Store.update`, in one thread and in many."""

    def test_update_returns_what_the_operation_returns_and_commits(self, store: Store) -> None:
        assert store.update(lambda txn: [txn.incr(b"key"), txn.incr(b"key")]) == [1, 2]
        assert store.get(b"key") == b"2"

    def test_view_returns_what_the_operation_returns(self, store: Store) -> None:
        store.set(b"key", b"value")
        assert store.view(lambda txn: (txn.get(b"key"), txn.get(b"other"))) == (b"value", None)

    def test_a_transaction_reads_its_own_writes(self, store: Store) -> None:
        def write(txn: WriteTransaction) -> None:
            txn.set(b"a", sample(50_000), ttl=10.0)
            assert txn.get(b"a") == sample(50_000)
            assert txn.add(b"a", b"other") is False
            assert [txn.incr(b"b"), txn.incr(b"b")] == [1, 2]
            assert txn.expire(b"a", None) is True
            assert txn.ttl(b"a") == math.inf
            assert txn.delete(b"b") is True
            assert txn.mget([b"a", b"b"]) == [sample(50_000), None]
            assert list(txn.scan()) == list(txn.range()) == [(b"a", sample(50_000))]

        store.update(write)

    def test_an_exception_undoes_the_whole_transaction(self, store: Store) -> None:
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
            store.update(fail_late)
        assert dict(store.scan()) == before
        assert [store.ttl(key) for key in before] == [math.inf] * 4

    def test_view_shows_one_moment_whatever_is_written_meanwhile(self, store: Store) -> None:
        def look(txn: ReadTransaction) -> tuple[object, ...]:
            before = txn.get(b"a")
            in_threads(1, lambda: [store.set(key, b"new") for key in (b"a", b"b")])
            return before, txn.mget([b"a", b"b"]), dict(txn.scan())

        store.set(b"a", b"old")
        seen = store.view(look)
        called_again = (b"new", [b"new", b"new"], {b"a": b"new", b"b": b"new"})
        assert seen in ((b"old", [b"old", None], {b"a": b"old"}), called_again)
        assert store.mget([b"a", b"b"]) == [b"new", b"new"]

    @pytest.mark.parametrize("inner", VERBS)
    def test_a_transaction_inside_an_update_is_refused_and_the_update_goes_on(self, store: Store, inner: str) -> None:
        def nest(txn: WriteTransaction) -> None:
            with pytest.raises(NestedTransaction):
                VERBS[inner](store)
            assert txn.get(b"key") == b"1"

        store.set(b"key", b"1")
        store.update(nest)
        assert dict(store.scan()) == {b"key": b"1"}

    @pytest.mark.parametrize("verb", READING)
    def test_a_snapshot_refuses_use_after_its_end(self, store: Store, verb: str) -> None:
        ended = store.view(lambda txn: txn)
        with pytest.raises(StoreClosed):
            READING[verb](ended)

    @pytest.mark.parametrize("verb", [*READING, *WRITING])
    def test_a_transaction_refuses_use_after_its_end(self, store: Store, verb: str) -> None:
        ended = store.update(lambda txn: txn)
        with pytest.raises(StoreClosed):
            {**READING, **WRITING}[verb](ended)
        assert list(store.scan()) == []

    def test_increments_from_many_threads_all_count(self, store: Store) -> None:
        counts = in_threads(4, lambda: [store.incr(b"key") for _ in range(25)])
        assert sorted(count for thread in counts for count in thread) == list(range(1, 101))

    def test_of_many_threads_that_add_one_succeeds(self, store: Store) -> None:
        won = in_threads(4, lambda: [store.add(b"%d" % number, b"") for number in range(20)])
        assert [sum(winners) for winners in zip(*won, strict=True)] == [1] * 20

    def test_no_reader_sees_half_a_transaction(self, store: Store) -> None:
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


class Blocks(Hooks):
    """The ``with`` blocks of a store that is `Interactive`."""

    def test_a_write_block_commits_at_its_end(self, store: Store) -> None:
        with interactive(store).write() as txn:
            txn.set(b"a", b"1")
            txn.incr(b"b", 2)
            assert txn.mget([b"a", b"b"]) == [b"1", b"2"]
        assert store.mget([b"a", b"b"]) == [b"1", b"2"]

    def test_an_exception_undoes_a_write_block(self, store: Store) -> None:
        with suppress(LookupError), interactive(store).write() as txn:
            txn.set(b"key", sample(50_000))
            raise LookupError
        with pytest.raises(StoreClosed):
            txn.set(b"key", b"value")
        assert list(store.scan()) == []
        assert store.set(b"key", b"value") is True

    def test_a_read_block_shows_one_moment_whatever_is_written_meanwhile(self, store: Store) -> None:
        store.set(b"a", b"old")
        with interactive(store).read() as txn:
            in_threads(1, lambda: [store.set(key, b"new") for key in (b"a", b"b")])
            assert txn.mget([b"a", b"b"]) == [b"old", None]
            assert list(txn.scan()) == [(b"a", b"old")]
        assert store.mget([b"a", b"b"]) == [b"new", b"new"]

    @pytest.mark.parametrize("inner", [*VERBS, "read", "write"])
    @pytest.mark.parametrize("outer", ["read", "write"])
    def test_a_transaction_inside_a_block_is_refused_and_the_block_goes_on(
        self, store: Store, outer: str, inner: str
    ) -> None:
        doors = interactive(store)
        blocks: dict[str, Callable[[], Any]] = {"read": doors.read, "write": doors.write}
        store.set(b"key", b"1")
        with blocks[outer]() as txn:
            with pytest.raises(NestedTransaction):
                VERBS[inner](store) if inner in VERBS else blocks[inner]().__enter__()
            assert txn.get(b"key") == b"1"
        assert dict(store.scan()) == {b"key": b"1"}

    @pytest.mark.parametrize("door", ["read", "write"])
    def test_a_block_refuses_use_after_its_end(self, store: Store, door: str) -> None:
        verbs: dict[str, Callable[[Any], object]] = {**READING, **(WRITING if door == "write" else {})}
        with getattr(interactive(store), door)() as ended:
            pass
        for verb in verbs.values():
            with pytest.raises(StoreClosed):
                verb(ended)

    def test_blocks_of_a_closed_store_are_refused(self, store: Store) -> None:
        doors = interactive(store)
        store.close()
        for block in (doors.read, doors.write):
            with pytest.raises(StoreClosed):
                block().__enter__()
