"""Stores that are dropped without `close`: the file, its descriptors and its thread are given back."""

import _thread
import gc
import random
import shutil
import threading
import weakref
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_backend, open_store
from lmdbresults.store.lmdb.engine.registry import environments
from tests.support.covering import wait_until
from tests.support.interrupting import Interruption, count_points, interrupted, spread
from tests.support.processes import FORKS_WITH_THREADS, busy_threads, in_child, in_thread, is_open, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def wait_until_closed(folder: Path) -> None:
    wait_until(
        lambda: not is_open(folder) and not any(str(folder) in path for path in list(environments._environments))
    )


def close_what_other_tests_dropped() -> None:
    """Close it now: garbage that is found later would have the unused files of this test closed too."""
    gc.collect()
    environments.close_dropped()


def test_dropped_stores_give_files_and_threads_back(tmp_path: Path) -> None:
    threads = threading.active_count()
    for number in range(20):
        open_store(tmp_path / f"{number}.lmdb").set(b"key", b"value")
    wait_until_closed(tmp_path)
    wait_until(lambda: threading.active_count() <= threads)
    for number in range(20):
        with open_store(tmp_path / f"{number}.lmdb") as store:
            assert store.get(b"key") == b"value"


def test_dropped_backends_give_files_and_threads_back(tmp_path: Path) -> None:
    threads = threading.active_count()
    for number in range(5):
        backend = open_backend(tmp_path / f"{number}.lmdb")
        backend.store_result("task", 1, "SUCCESS")
        with pytest.raises(errors.ResultTimeout):
            backend.wait_for("other", timeout=0.01)
    del backend
    gc.collect()
    wait_until_closed(tmp_path)
    wait_until(lambda: threading.active_count() <= threads)


def test_what_a_dropped_store_has_written_is_in_a_checkpoint(tmp_path: Path, path: str) -> None:
    open_store(path, checkpoint_interval=3600).set(b"key", b"value")
    wait_until_closed(tmp_path)
    with open_store(path) as store:
        assert not store._environment.file.checkpoints.is_behind()


def test_file_stays_open_for_its_other_stores(path: str) -> None:
    with open_store(path) as kept:
        for _ in range(3):
            open_store(path).set(b"key", b"value")
        assert len(kept._environment.users) == 1
        assert kept.get(b"key") == b"value"


def test_store_that_is_opened_again_at_once_may_have_other_options(path: str) -> None:
    for number in range(50):
        open_store(path, max_size=(number + 1) << 20).set(b"key", b"%d" % number)
    with open_store(path) as store:
        assert store.get(b"key") == b"49"


def test_a_store_is_not_dropped_while_it_is_in_use(path: str) -> None:
    with open_store(path) as store:
        for number in range(2000):
            store.set(b"%04d" % number, b"value")
    scanned, ordered = open_store(path).scan(), open_store(path).range()
    assert [len(list(islice(each, 10))) for each in (scanned, ordered)] == [10, 10]
    gc.collect()
    assert [len(list(each)) for each in (scanned, ordered)] == [1990, 1990]
    with open_store(path).read() as txn:
        assert txn.get(b"0000") == b"value"
    with open_store(path).write() as txn:
        txn.set(b"last", b"value")
    assert open_store(path).get(b"last") == b"value"


class Cycle:
    """Garbage that only the collector finds, at any moment."""

    def __init__(self, store: LMDBStore) -> None:
        self.store, self.itself = store, self


@pytest.mark.parametrize("door", ["update", "view", "write", "read"])
def test_store_may_be_collected_inside_a_transaction_on_its_file(tmp_path: Path, path: str, door: str) -> None:
    def drop(*_: object) -> None:
        gc.collect()

    with open_store(path) as kept:
        Cycle(open_store(path))
        Cycle(open_store(tmp_path / "other.lmdb")).store.set(b"key", b"value")
        if door in ("update", "view"):
            getattr(kept, door)(drop)
        else:
            with getattr(kept, door)():
                drop()
        assert len(kept._environment.users) == 1
    wait_until_closed(tmp_path)


def test_a_long_read_delays_the_end_of_a_dropped_store_and_nothing_else(tmp_path: Path) -> None:
    with open_store(tmp_path / "kept.lmdb") as kept, open_store(tmp_path / "third.lmdb") as third:
        with kept.read():
            Cycle(open_store(tmp_path / "dropped.lmdb")).store.set(b"key", b"value")
            gc.collect()
            for _ in range(100):
                in_thread(third.set, b"key", b"value")
            assert any("dropped" in path for path in environments._environments)
        wait_until(lambda: not any("dropped" in path for path in environments._environments))
    wait_until_closed(tmp_path)


def test_without_a_thread_the_next_opening_closes_the_file(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    close_what_other_tests_dropped()
    with monkeypatch.context() as patched:
        patched.setattr(_thread, "start_new_thread", refuse)
        open_store(path, durability="none").set(b"key", b"value")
        assert is_open(tmp_path)
    with open_store(path) as store:
        assert store.get(b"key") == b"value"
    assert not is_open(tmp_path)


def test_a_store_whose_end_was_missed_is_closed_with_the_next_one(tmp_path: Path) -> None:
    close_what_other_tests_dropped()
    store = open_store(tmp_path / "missed.lmdb")
    users = store._environment.users
    former = set(users)
    users.clear()  # so that nothing is called
    users.update(weakref.ref(reference()) for reference in former)
    del store, former
    assert is_open(tmp_path)
    open_store(tmp_path / "next.lmdb").set(b"key", b"value")
    wait_until_closed(tmp_path)


def drop_and_use(path: str) -> bytes | None:
    gc.collect()
    with open_store(path) as store:
        store.set(b"child", b"value")
    return open_store(path).get(b"key")


def test_parent_and_child_of_a_fork_may_drop_a_store(tmp_path: Path, path: str) -> None:
    store = open_store(path)
    store.set(b"key", b"value")
    assert in_child(drop_and_use, path) == b"value"
    assert store.get(b"child") == b"value"
    del store
    wait_until_closed(tmp_path)


def test_stores_may_be_dropped_by_many_threads_beside_forks(tmp_path: Path) -> None:
    def use(number: int) -> None:
        path = tmp_path / f"{random.randrange(4)}.lmdb"
        with suppress(errors.ConfigurationError):  # open in another way
            Cycle(open_store(path, max_size=random.choice([1 << 20, 1 << 30]))).store.set(b"%d" % number, b"value")
        if number % 5 == 0:
            gc.collect()

    with busy_threads(use, use, use):
        for _ in range(20):
            in_child(drop_and_use, str(tmp_path / "child.lmdb"))
    gc.collect()
    wait_until_closed(tmp_path)
    for path in tmp_path.glob("*.lmdb"):
        with open_store(path) as store:
            assert store.check() == []


def test_an_exception_of_a_signal_handler_as_a_store_is_dropped_leaves_the_file_to_be_closed(path: str) -> None:
    def handler() -> None:
        raise Interruption

    def drop() -> None:
        open_store(path).set(b"key", b"value")

    for point in spread(count_points(drop), 40):
        with suppress(Interruption), interrupted(point, handler):
            drop()
        in_thread(open_store(path, durability="checkpoint").set, b"other", b"value")
        wait_until(lambda: path not in environments._environments)


def test_file_whose_closing_was_interrupted_can_be_opened(path: str) -> None:
    with open_store(path) as kept:
        kept.set(b"key", b"value")
        file = kept._environment.file
        file.handle = None  # the first step of closing; an exception came after the descriptors were closed
        file._parts.close()
        with open_store(path) as store:
            assert store.get(b"key") == b"value"
        kept.set(b"key", b"other")


def test_files_may_be_deleted_before_their_store_is_dropped(tmp_path: Path, path: str) -> None:
    store = open_store(path)
    store.set(b"key", b"value")
    shutil.rmtree(tmp_path)
    del store
    wait_until(lambda: not is_open(tmp_path))


def test_store_that_lives_to_the_end_of_the_interpreter_is_silent(path: str) -> None:
    source = """
import sys
from lmdbresults import open_store
class Cycle: pass
cycle = Cycle()
cycle.itself, cycle.store = cycle, open_store(sys.argv[1])
cycle.store.set(b"key", b"value")
"""
    done = run_script(source, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
