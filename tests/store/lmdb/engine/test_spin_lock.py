"""The way to the write lock: tried for only where others write, and harmless however it ends."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.lmdb.engine import spin_lock
from tests.support.processes import in_child, in_children, run_script

pytestmark = pytest.mark.skipif(
    spin_lock._SET_LOCK is None, reason="this system has no locks of open file descriptions"
)

WRITE = """
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability="none") as store:
    store.incr(b"theirs")
"""
HOLD = """
import fcntl, os, sys
from lmdbresults.store.lmdb.engine import spin_lock
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), spin_lock._SET_LOCK, spin_lock._TAKE)
print("held", flush=True)
sys.stdin.read()
"""


class Calls:
    """Counts how often the lock is tried for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], object] | None = None) -> None:
        self.tries, self._answer, self._fcntl = 0, answer, fcntl.fcntl
        monkeypatch.setattr(spin_lock.fcntl, "fcntl", self)

    def __call__(self, descriptor: int, command: int, argument: bytes) -> object:
        if argument == spin_lock._TAKE:
            self.tries += 1
            if self._answer is not None:
                return self._answer()
        return self._fcntl(descriptor, command, argument)


@contextmanager
def held_elsewhere(path: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def is_free(path: str) -> bool:
    """Return whether a new descriptor can have the lock."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, spin_lock._SET_LOCK, spin_lock._TAKE)  # type: ignore[arg-type]
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def store_some(store: LMDBStore, count: int) -> None:
    for number in range(count):
        store.set(b"%d" % number, b"value")


def meet_others(store: LMDBStore) -> None:
    """Have another process write, and notice it."""
    store.set(b"ours", b"before")
    done = run_script(WRITE, store.options.path)
    assert done.returncode == 0, done.stderr
    store.set(b"ours", b"after")


def test_a_process_alone_does_not_try_for_it(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    store_some(store, 50)
    with store.write() as txn:
        txn.set(b"block", b"value")
    store_some(store, 50)
    store.close()
    assert calls.tries == 0


def test_it_is_tried_for_where_others_write_and_for_no_longer(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet_others(store)
    calls = Calls(monkeypatch)
    store_some(store, 10)
    assert calls.tries == 10
    store_some(store, spin_lock._REMEMBERED)
    assert calls.tries == spin_lock._REMEMBERED
    meet_others(store)
    store_some(store, 1)
    assert calls.tries > spin_lock._REMEMBERED


def test_it_is_free_after_each_write(store: LMDBStore, path: str) -> None:
    meet_others(store)
    store_some(store, 1)
    assert is_free(path)
    with pytest.raises(ValueError, match="ttl"):
        store.set(b"key", b"value", ttl=-1)
    assert is_free(path)


def test_who_does_not_get_it_writes_all_the_same(store: LMDBStore, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meet_others(store)
    monkeypatch.setattr(spin_lock, "_LONGEST", 60.0)  # however long each try takes
    calls = Calls(monkeypatch)
    with held_elsewhere(path):
        store.set(b"key", b"value")
        assert calls.tries == spin_lock._TRIES
        assert not is_free(path)  # nor has it given back what another one holds
    assert store.get(b"key") == b"value"


def test_trying_ends_in_time(store: LMDBStore, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meet_others(store)
    monkeypatch.setattr(spin_lock, "_LONGEST", -1.0)
    calls = Calls(monkeypatch)
    with held_elsewhere(path):
        store.set(b"key", b"value")
    assert calls.tries == 1


def test_it_goes_with_a_process_that_is_killed(store: LMDBStore, path: str) -> None:
    with held_elsewhere(path) as process:
        assert not is_free(path)
        process.kill()
        process.wait()
        assert is_free(path)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_exception_of_a_signal_handler_leaves_it_free(
    store: LMDBStore, path: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    meet_others(store)
    with monkeypatch.context() as patch:
        real = fcntl.fcntl

        def interrupted(descriptor: int, command: int, argument: bytes) -> None:
            if moment == "after" or argument != spin_lock._TAKE:
                real(descriptor, command, argument)
            if argument == spin_lock._TAKE:
                interrupt()

        patch.setattr(spin_lock.fcntl, "fcntl", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.set(b"key", b"value")
    assert is_free(path)
    store.set(b"key", b"value")
    assert store.get(b"key") == b"value"


def test_a_file_system_without_such_locks_is_not_asked_again(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(22, "Invalid argument")

    meet_others(store)
    calls = Calls(monkeypatch, refuse)
    store_some(store, 5)
    meet_others(store)
    store_some(store, 5)
    assert calls.tries == 1


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(store: LMDBStore, path: str) -> None:
    meet_others(store)
    with store.write() as txn:
        txn.set(b"block", b"value")
        with pytest.raises(Exception, match="forked"):
            in_child(store.set, b"key", b"value")
    store.set(b"key", b"value")
    assert is_free(path)


def test_what_several_processes_count_is_right(store: LMDBStore) -> None:
    def count(number: int) -> None:
        for _ in range(300):
            store.incr(b"count")

    in_children(4, count)
    assert store.get(b"count") == b"1200"
    assert store.check() == []
