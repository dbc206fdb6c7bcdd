"""LMDBStore keeps the promises of the port, and leaves nothing behind in its file."""

import os
import pickle
from collections.abc import Iterator
from itertools import pairwise

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import ConfigurationError, NestedTransaction, StoreClosed
from lmdbresults.testing import KEY_LENGTHS, SIZES, FakeClock, StoreConformance, sample
from tests.support.processes import FORKS_WITH_THREADS


@pytest.mark.parametrize("durability", ["none", "commit"])
class TestLMDBStore(StoreConformance):
    @pytest.fixture
    def store(self, path: str, clock: FakeClock, durability: str) -> Iterator[LMDBStore]:
        with open_store(path, durability=durability, clock=clock) as store:
            yield store


class TestSeveralPrefixes(StoreConformance):
    """Stores with different prefixes share a file without seeing each other's records."""

    @pytest.fixture
    def store(self, path: str, clock: FakeClock) -> Iterator[LMDBStore]:
        others = [open_store(path, durability="none", clock=clock, global_keyprefix=prefix) for prefix in ("", "a")]
        for other in others:
            other.set(b"key", b"of another")
            other.set(b"b" * 600, b"of another")
        with open_store(path, durability="none", clock=clock, global_keyprefix="app") as store:
            yield store
        for other in others:
            assert other.mget([b"key", b"b" * 600]) == [b"of another"] * 2
            other.close()


def pieces(store: LMDBStore) -> int:
    """How many records and chunks there are."""
    return store.stats().records + store.stats().chunks


# -- nothing is left behind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ttl", [None, 60.0])
def test_a_value_of_any_size_leaves_nothing_behind_when_it_is_replaced_or_deleted(
    store: LMDBStore, size: int, ttl: float | None
):
    empty = pieces(store)
    store.set(b"key", b"small", ttl)
    small = pieces(store)
    for seed in range(3):
        store.set(b"key", sample(size, seed), ttl)
        store.set(b"key", b"small", ttl)
        assert pieces(store) == small
    store.set(b"key", sample(size), ttl)
    store.delete(b"key")
    assert pieces(store) == empty
    assert store.check() == []


@pytest.mark.parametrize("length", KEY_LENGTHS)
def test_a_key_of_any_length_leaves_nothing_behind_when_it_expires(store: LMDBStore, clock: FakeClock, length: int):
    empty = pieces(store)
    for size in (0, 10, 50_000):
        store.set(b"k" * length, sample(size), ttl=1.0)
        store.expire(b"k" * length, 2.0)
        clock.advance(2.0)
        assert store.sweep() == 1
        assert pieces(store) == empty


def test_sweep_returns_exactly_how_many_records_it_has_deleted(store: LMDBStore, clock: FakeClock):
    for number in range(30):
        store.set(b"short %d" % number, sample(number * 3000), ttl=1.0)
        store.set(b"extended %d" % number, b"", ttl=1.0)
        store.expire(b"extended %d" % number, 9.0)
    clock.advance(1.0)
    assert [store.sweep(limit=0), store.sweep(limit=7), store.sweep(limit=20), store.sweep()] == [0, 7, 20, 3]


def test_the_file_does_not_grow_under_a_steady_load(store: LMDBStore, clock: FakeClock):
    def load(writes: int) -> None:
        for number in range(writes):
            store.set(b"%d" % number, sample(number * 50 % 40_000), ttl=5.0)
            clock.advance(0.25)

    load(500)
    size = store.stats().file_size
    load(2500)
    assert store.stats().file_size <= size + (1 << 20)  # by one step of the allocation, not five times


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_write_sweeps_only_a_few_records_along_the_way(store: LMDBStore, clock: FakeClock, size: int):
    for number in range(60):
        store.set(b"%d" % number, sample(size), ttl=1.0)
    clock.advance(1.0)
    counts = [pieces(store)]
    for number in range(20):
        store.set(b"key %d" % number, b"")
        counts.append(pieces(store))
    gone = [before - after for before, after in pairwise(counts)]
    assert 0 < max(gone) < 200


@pytest.mark.parametrize("then", ["nothing", "set", "delete", "incr", "add"])
def test_a_half_swept_large_value_stays_expired_and_is_deleted_in_the_end(
    store: LMDBStore, clock: FakeClock, then: str
):
    store.set(b"key", sample(2_000_000), ttl=1.0)
    clock.advance(1.0)
    store.set(b"other", b"")  # which sweeps along, but not the whole value
    assert pieces(store) > 20
    clock.set_back(1.0)
    assert [store.get(b"key"), store.ttl(b"key"), store.expire(b"key", 9.0)] == [None, None, False]
    if then in ("set", "add"):
        assert getattr(store, then)(b"key", sample(50_000)) is True
    elif then == "delete":
        assert store.delete(b"key") is False
    elif then == "incr":
        assert store.incr(b"key") == 1
    assert store.check() == []
    store.sweep()
    assert pieces(store) == {"nothing": 1, "delete": 1, "incr": 2}.get(then, 6)
    assert store.check() == []


# -- one file, several stores ------------------------------------------------------------------------------------------


def test_records_survive_reopening_and_expire_in_time(path: str, clock: FakeClock):
    with open_store(path, clock=clock) as store:
        store.set(b"never", sample(100_000))
        store.set(b"soon", b"value", ttl=10.0)
    clock.advance(4.0)
    with open_store(path, clock=clock) as store:
        assert dict(store.scan()) == {b"never": sample(100_000), b"soon": b"value"}
        assert store.ttl(b"soon") == pytest.approx(6.0)
        clock.advance(6.0)
        assert dict(store.scan()) == {b"never": sample(100_000)}


def test_stores_on_one_file_share_its_records_whichever_path_leads_to_it(store: LMDBStore, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with open_store(tmp_path / "link" / "results.lmdb", durability="none") as other:
        other.set(b"key", b"value")
        assert store.get(b"key") == b"value"
    assert store.incr(b"still open") == 1


def test_a_second_store_with_another_durability_or_size_is_refused(store: LMDBStore):
    for name, value in {"durability": "commit", "max_size": 1 << 30}.items():
        with pytest.raises(ConfigurationError, match=f"{name}=.*close the other store"):
            open_store(store.options.path, **{"durability": "none", name: value})
    store.close()
    open_store(store.options.path, durability="commit", max_size=1 << 30).close()


def test_closing_inside_a_transaction_is_refused_and_the_store_stays_open(store: LMDBStore):
    with store.write() as txn:
        with pytest.raises(NestedTransaction):
            store.close()
        txn.set(b"key", b"value")
    assert store.get(b"key") == b"value"
    store.close()
    open_store(store.options.path, durability="commit").close()  # which would be refused if the file were still open


def test_a_store_can_be_pickled(store: LMDBStore):
    store.set(b"key", b"value")
    with pickle.loads(pickle.dumps(store)) as copy:
        assert copy.options == store.options
        assert copy.get(b"key") == b"value"
    assert store.get(b"key") == b"value"


@pytest.mark.filterwarnings(FORKS_WITH_THREADS)
@pytest.mark.parametrize("first", ["child", "parent"])
def test_a_child_forked_inside_an_update_commits_nothing(store: LMDBStore, first: str):
    ours, theirs = os.pipe()
    parent = os.getpid()

    def fork(txn) -> int:
        txn.set(b"before", b"")
        pid = os.fork()
        if pid:
            if first == "child":
                os.waitpid(pid, 0)
            txn.set(b"by the parent", b"")
        elif first == "parent":
            os.read(ours, 1)
        return pid

    try:
        pid = store.update(fork)
    finally:
        if os.getpid() != parent:
            os._exit(0)
    if first == "parent":
        os.write(theirs, b"!")
        os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)
    assert dict(store.scan()) == {b"before": b"", b"by the parent": b""}


# -- details --------------------------------------------------------------------------------------------------------


def test_stats_describe_the_file(store: LMDBStore):
    before = store.stats()
    store.set(b"key", sample(100_000), ttl=1.0)
    after = store.stats()
    assert before.path == after.path == store.options.path
    assert (after.records - before.records, after.chunks - before.chunks, after.waiters) == (1, 7, 0)
    assert after.live_size > before.live_size + 90_000
    assert after.file_size == os.stat(store.options.path).st_size >= after.live_size
    assert after.max_size == store.options.max_size


def test_a_value_must_be_bytes_like(store: LMDBStore):
    for value in (bytearray(b"value"), memoryview(b"value")):
        store.set(b"key", value)
        assert store.get(b"key") == b"value"
    for wrong in ("value", 5, None, [1]):
        with pytest.raises(TypeError):
            store.set(b"key", wrong)
    assert store.get(b"key") == b"value"


def test_using_a_transaction_after_its_end_says_where_it_can_be_used(store: LMDBStore):
    with store.read() as txn:
        pass
    with pytest.raises(StoreClosed, match="with block"):
        txn.get(b"key")


def test_using_a_closed_store_says_how_to_open_it_again(store: LMDBStore):
    store.close()
    with pytest.raises(StoreClosed, match="open_store"):
        store.get(b"key")


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="elsewhere a file name must be text")
def test_a_file_name_that_is_not_text_can_be_opened(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.lmdb")
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")
        assert store.check() == []
    assert os.path.exists(path)
