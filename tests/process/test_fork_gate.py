"""Forks: beside other threads, inside transactions, without Python's hooks."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_store
from lmdbresults.store import WriteTransaction
from tests.support.processes import FORKS_WITH_THREADS, busy_threads, in_child, run_script
from tests.support.stores import sound_store

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LMDBStore]:
    with sound_store(tmp_path / "results.lmdb") as store:
        yield store


def write_block(store: LMDBStore, number: int) -> None:
    with store.write() as txn:
        txn.set(b"block", b"%d" % number)
        txn.incr(b"blocks")


def read_block(store: LMDBStore, number: int) -> None:
    with store.read() as txn:
        assert txn.mget([b"block"]) == [txn.get(b"block")]


def test_threads_go_on_while_another_thread_forks(store: LMDBStore) -> None:
    def use(name: bytes) -> Callable[[int], object]:
        def work(number: int) -> None:
            store.set(name, b"%d" % number)
            assert store.get(name) == b"%d" % number

        return work

    blocks = (lambda number: write_block(store, number), lambda number: read_block(store, number))
    with busy_threads(use(b"a"), use(b"b"), *blocks):
        for number in range(1, 41):
            assert in_child(store.incr, b"children") == number


def test_a_fork_waits_for_the_transactions_of_other_threads(store: LMDBStore) -> None:
    entered = threading.Event()

    def hold() -> None:
        with store.write() as txn:
            txn.set(b"key", b"value")
            entered.set()
            time.sleep(0.2)

    with child_after(hold, entered):
        assert in_child(store.get, b"key") == b"value"


@contextmanager
def child_after(work: Callable[[], None], entered: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert entered.wait(240)
    yield
    thread.join(240)


@pytest.mark.parametrize(
    "doing",
    ["logging.getLogger('new').info('text')", "ThreadPoolExecutor(1).submit(int).result()"],
    ids=["log", "pool"],
)
def test_a_transaction_can_use_locks_that_are_held_for_forks(store: LMDBStore, doing: str) -> None:
    """Logging and thread pools are locked before a fork, as the store is: one has to wait for the other."""
    source = f"""
import faulthandler, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from lmdbresults import open_store
from lmdbresults.process.fork_gate import gate
import logging
from concurrent.futures import ThreadPoolExecutor
gate.fork_timeout = 0.5
faulthandler.dump_traceback_later(240, exit=True)
entered = threading.Event()
def work():
    with store.write() as txn:
        entered.set()
        time.sleep(0.1)
        {doing}
with open_store(sys.argv[1], durability="none") as store:
    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    thread.join()
"""
    done = run_script(source, store.options.path)
    assert (done.returncode, done.stderr) == (0, "")


def use_after_fork(store: LMDBStore) -> list[str]:
    """Return the names of the errors that a child gets which was forked inside a transaction."""

    def reopen() -> None:
        store.close()
        open_store(store.options.path, durability="none").get(b"key")

    got = []
    for attempt in (lambda: store.get(b"key"), lambda: store.set(b"key", b"child"), store.check, reopen):
        try:
            attempt()
            got.append("no error")
        except Exception as error:
            got.append(type(error).__name__)
    return got


@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_store_is_unusable_in_a_child_that_was_forked_inside_a_block(store: LMDBStore, kind: str) -> None:
    store.set(b"key", b"former")
    with getattr(store, kind)() as txn:
        if kind == "write":
            txn.set(b"key", b"new")
        assert in_child(use_after_fork, store) == ["ForkedStore"] * 4
        assert txn.get(b"key") == (b"new" if kind == "write" else b"former")
    assert store.get(b"key") == (b"new" if kind == "write" else b"former")


def test_a_child_cannot_write_in_the_transaction_of_its_parent(store: LMDBStore) -> None:
    with store.write() as txn:
        txn.set(b"key", b"parent")
        with pytest.raises(errors.ForkedStore):
            in_child(txn.set, b"key", bytes(1 << 20))
    assert store.get(b"key") == b"parent"


@pytest.mark.parametrize("kind", ["update", "view", "write", "read"])
@pytest.mark.parametrize("undone", [False, True], ids=["parent commits", "parent gives up"])
def test_only_the_parent_can_commit_a_transaction(store: LMDBStore, kind: str, undone: bool) -> None:
    """The child leaves the block as if nothing had happened."""
    store.set(b"key", b"former")
    mine, pids, seen = os.getpid(), [], []

    def work(txn: LMDBStore) -> None:
        if kind in ("update", "write"):
            txn.set(b"key", b"parent")
        pids.append(os.fork())
        if pids[-1] == 0:
            if kind in ("update", "write"):
                txn.set(b"child", b"value")
            return
        seen.append(os.waitpid(pids[-1], 0)[1])
        if undone:
            raise ZeroDivisionError

    try:
        with suppress(ZeroDivisionError):
            if kind in ("update", "view"):
                getattr(store, kind)(work)
            else:
                with getattr(store, kind)() as txn:
                    work(txn)
    except errors.ForkedStore:
        if os.getpid() != mine:
            os._exit(7)
        raise
    finally:
        if os.getpid() != mine:
            os._exit(1)
    assert [os.waitstatus_to_exitcode(status) for status in seen] == [7]
    assert store.get(b"key") == (b"former" if undone or kind in ("view", "read") else b"parent")
    assert store.get(b"child") is None


def test_a_fork_without_pythons_hooks_is_detected(store: LMDBStore) -> None:
    store.set(b"key", b"value")
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        os._exit(7 if set(use_after_fork(store)) == {"ForkedStore"} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert store.get(b"key") == b"value"


@pytest.mark.parametrize("kind", ["update", "write"])
def test_a_fork_without_pythons_hooks_is_detected_at_the_end_of_a_transaction(store: LMDBStore, kind: str) -> None:
    mine, statuses = os.getpid(), []

    def work(txn: WriteTransaction) -> None:
        txn.set(b"key", b"parent")
        pid = ctypes.PyDLL(None).fork()
        if pid:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    try:
        if kind == "update":
            store.update(work)
        else:
            with store.write() as txn:
                work(txn)
    except errors.ForkedStore:
        if os.getpid() != mine:
            os._exit(7)
        raise
    finally:
        if os.getpid() != mine:
            os._exit(1)
    assert statuses == [7]
    assert store.get(b"key") == b"parent"


def test_closing_the_store_in_a_child_without_pythons_hooks_keeps_the_snapshots_of_the_parent(store: LMDBStore) -> None:
    """An ordinary close would free the slot of the parent's snapshot; its pages would then be overwritten."""
    keys = [b"%d" % number for number in range(200)]
    for key in keys:
        store.set(key, b"before" * 50)
    entered, overwritten = threading.Event(), threading.Event()

    def look_twice() -> None:
        with store.read() as txn:
            entered.set()
            overwritten.wait(240)
            assert txn.mget(keys) == [b"before" * 50] * len(keys)

    with busy_threads(lambda _: overwritten.is_set() or look_twice()):
        entered.wait(240)
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.alarm(240)
            store.close()
            os._exit(7)
        status = os.waitpid(pid, 0)[1]
        done = run_script(OVERWRITE, store.options.path)
        overwritten.set()
    assert (os.waitstatus_to_exitcode(status), done.returncode, done.stderr) == (7, 0, "")


OVERWRITE = """
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability="none") as store:
    for turn in range(2000): store.set(b"%d" % (turn % 200), b"after!" * 50)
"""


def count_generations(store: LMDBStore, left: int) -> int:
    store.incr(b"generations")
    return in_child(count_generations, store, left - 1) if left else store.incr(b"generations", 0)


def test_children_of_children_use_the_store(store: LMDBStore) -> None:
    assert in_child(count_generations, store, 5) == 6
