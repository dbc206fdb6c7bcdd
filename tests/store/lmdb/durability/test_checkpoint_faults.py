"""Checkpoints where something is wrong: the disk, descriptors, files that were deleted, processes that leave things."""

import fcntl
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb
import pytest

from lmdbresults import LMDBStore, errors, open_store
from lmdbresults.process import boot
from lmdbresults.store.lmdb.durability import checkpoints as checkpoint
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from tests.support.boots import keys_in, keys_in_next_boot
from tests.support.covering import LONG, SHORT, covered, last_commit, readers, wait_until
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, child, in_child, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def kept(store: LMDBStore) -> list[str]:
    """The commits whose pages are kept from reuse."""
    return [line.split()[-1] for line in readers(store).splitlines()[1:] if not line.endswith("-")]


class Refusing:
    """LMDB's environment on a disk that takes nothing any more."""

    def __init__(self, handle: lmdb.Environment) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> object:
        return getattr(self._handle, name)

    def sync(self, force: bool) -> None:
        raise lmdb.DiskError("Input/output error")


def test_failed_sync_is_an_error_from_then_on(path: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(path, checkpoint_interval=LONG)
    store.set(b"before", b"value")
    checkpoints, before = store._environment.file.checkpoints, covered(store)
    checkpoints._handle = Refusing(checkpoints._handle)
    for attempt in (store.flush, lambda: store.set(b"after", b"value"), store.flush):
        with pytest.raises(errors.StoreError, match="lmdbresults rewrite"):
            attempt()
    assert (store.get(b"before"), store.get(b"after")) == (b"value", None)
    assert covered(store) == before
    with caplog.at_level(logging.ERROR):
        store.close()
    assert "without a last checkpoint" in caplog.text


def test_deleted_sidecar_is_recreated_by_the_next_checkpoint(path: str) -> None:
    def write() -> None:
        store = open_store(path, checkpoint_interval=LONG)
        store.set(b"one", b"value")
        os.unlink(f"{path}-checkpoint")
        store.set(b"two", b"value")
        store.flush()
        store.set(b"three", b"value")

    in_child(write)
    assert keys_in_next_boot(path) == [b"one", b"two"]


def test_sidecar_that_two_processes_recreate_keeps_the_later_checkpoint(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"one", b"value")
        slower = Sidecar(path)
        os.unlink(f"{path}-checkpoint")
        for key in (b"two", b"three"):
            store.set(key, b"value")
            store.flush()
        slower.recreate(0o600)
        assert slower.read().durable.txn == covered(store) == last_commit(store)
        slower.close()


def test_each_commit_is_synced_where_the_system_has_no_boot_id(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "boot_id", lambda: "")
    for durability in ("checkpoint", "commit", "none"):
        with open_store(path, durability=durability) as store:
            store.incr(b"n")
            assert store._environment.file.handle.flags()["sync"] is (durability != "none")
            store.flush()
    assert keys_in(path) == [b"n"]


def test_failed_sync_leaves_no_pin_and_is_remembered_across_a_fork(path: str) -> None:
    store = open_store(path, checkpoint_interval=LONG)
    store.set(b"key", b"value")
    checkpoints, before = store._environment.file.checkpoints, kept(store)
    handle, checkpoints._handle = checkpoints._handle, Refusing(checkpoints._handle)
    with pytest.raises(errors.StoreError) as caught:
        store.flush()
    assert kept(store) == before
    checkpoints._handle = handle
    in_child(int)  # closes the file and opens it again
    with pytest.raises(errors.StoreError, match="lmdbresults rewrite"):
        store.set(b"key", b"later")
    assert store.get(b"key") == b"value"
    assert "lmdbresults rewrite" in str(caught.value)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing any more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(held[0])


def test_lack_of_descriptors_is_a_temporary_error(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG) as store:
        store.get(b"key")
        store.set(b"key", b"value")
        store._environment.file.checkpoints._is_new = True  # as if another process had made the first checkpoint
        with no_descriptors(), pytest.raises(errors.StoreError, match="Too many open files"):
            store.flush()
        store.flush()
        assert covered(store) == last_commit(store)


def test_failure_to_write_the_sidecar_is_a_temporary_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        before = kept(store)
        with monkeypatch.context() as patch:
            patch.setattr(Sidecar, "write", fail)
            with pytest.raises(errors.StoreError, match="Input/output error"):
                store.flush()
        assert kept(store) == before
        store.flush()
        assert covered(store) == last_commit(store)


def test_deleted_sidecar_is_recreated_though_nothing_is_written(path: str) -> None:
    """No other process can open the file until then, as the sidecar says how it is protected."""
    with open_store(path, checkpoint_interval=SHORT) as store:
        store.set(b"key", b"value")
        os.unlink(f"{path}-checkpoint")
        wait_until(lambda: os.path.exists(f"{path}-checkpoint"))
        source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1])"
        assert run_script(source, path).stderr == ""


def test_deleted_sidecar_that_no_process_recreates_is_an_error_that_says_so(path: str) -> None:
    open_store(path).close()
    source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1])"
    with open_store(path) as store:
        assert store.get(b"key") is None
        os.unlink(f"{path}-checkpoint")
        assert f"{path}-checkpoint was deleted" in run_script(source, path).stderr


def test_file_that_was_deleted_in_use_is_not_recreated_under_its_lock_file(path: str) -> None:
    source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1])"
    with open_store(path) as store:
        store.set(b"key", b"value")
        os.unlink(path)
        assert "FileReplaced" in run_script(source, path).stderr


# -- pins and locks that stay ------------------------------------------------------------------------------------------


def test_process_that_is_stopped_in_a_checkpoint_is_not_waited_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_LOCK_PATIENCE", SHORT)
    with open_store(path, checkpoint_interval=LONG) as store, open(f"{path}-checkpoint", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(3):
            store.set(b"key", b"value")
            store.flush()
            assert covered(store) == last_commit(store)
        store.set(b"at the end", b"value")
    assert keys_in_next_boot(path) == [b"at the end", b"key"]


def test_stopped_holder_of_the_checkpoint_lock_is_waited_for_once_by_all_processes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_LOCK_PATIENCE", SHORT)
    open_store(path).close()
    with open(f"{path}-checkpoint", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        in_child(lambda: open_store(path, checkpoint_interval=LONG).flush())
        monkeypatch.setattr(checkpoint, "_LOCK_PATIENCE", PATIENCE)
        with open_store(path, checkpoint_interval=LONG) as store:
            for _ in range(3):
                store.set(b"key", b"value")
                store.flush()  # would take a minute each
                assert covered(store) == last_commit(store)
            fcntl.flock(file, fcntl.LOCK_UN)
            store.set(b"key", b"later")
            store.flush()
            sidecar = Sidecar(path)
            assert not sidecar.read().is_lock_stuck
            sidecar.close()


def test_write_after_the_checkpoint_of_another_process_pins_that_and_makes_none(path: str) -> None:
    source = "import sys; from lmdbresults import open_store; store = open_store(sys.argv[1]); store.flush()"
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        assert run_script(source, path).stderr == ""
        assert (made := covered(store)) == last_commit(store)
        store._environment.file.checkpoints.run_due()
        store.set(b"key", b"later")
        assert covered(store) == made
        assert kept(store) == [str(made)]


def test_process_that_only_flushes_keeps_no_pin(path: str) -> None:
    def write_on(started: int) -> None:
        store = open_store(path, checkpoint_interval=LONG)
        os.read(started, 1)
        for number in range(100):
            store.set(b"%d" % number, b"value")
        os._exit(0)

    open_store(path).close()
    ours, theirs = os.pipe()
    with child(write_on, ours) as other, open_store(path, checkpoint_interval=SHORT) as store:
        assert store.get(b"key") is None
        os.write(theirs, b".")
        other.wait()
        store.flush()
        wait_until(lambda: "no active readers" in readers(store))
        assert covered(store) == last_commit(store)


def test_child_that_cannot_use_the_store_keeps_no_locks_of_its_parent(path: str) -> None:
    def fork_inside(told: int) -> None:
        store = open_store(path)
        with store.write() as txn:
            txn.set(b"key", b"value")
            if not os.fork():
                os.write(told, b"%d" % os.getpid())
                time.sleep(PATIENCE)
                os._exit(0)
        store._environment.file._parts.sidecar.try_lock_checkpoints()

    ours, theirs = os.pipe()
    with child(fork_inside, theirs) as parent:
        pid = int(os.read(ours, 20))
        parent.wait()  # it ends as by kill -9, in the midst of a checkpoint
    try:
        for name in (path, f"{path}-checkpoint"):
            with open(name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(pid, 9)


def test_program_keeps_no_pin_from_before_exec(path: str) -> None:
    source = """
import os, sys
from lmdbresults import open_store
store = open_store(sys.argv[1], checkpoint_interval=3600)
lines = lambda: {line for line in store._environment.file.handle.readers().splitlines() if str(os.getpid()) in line}
if len(sys.argv) == 2:
    store.incr(b"key")
    store.incr(b"key")
    assert lines()
    os.execv(sys.executable, [sys.executable, "-c", os.environ["SOURCE"], sys.argv[1], *lines()])
assert store.get(b"key") == b"2"
assert not lines() & set(sys.argv)
"""
    open_store(path).close()
    with open_store(path) as store:
        assert store.get(b"key") is None  # so that LMDB's reader table stays
        command = [sys.executable, "-W", "error", "-c", source, path]
        subprocess.run(command, env={**os.environ, "SOURCE": source}, timeout=PATIENCE, check=True)


def test_signal_handler_that_flushes_during_a_checkpoint_keeps_the_checkpoint_lock(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, turns = Sidecar.write, []

    def interrupted(self: Sidecar, *args: object, **options: bool) -> None:
        monkeypatch.setattr(Sidecar, "write", write)
        store.set(b"in the handler", b"value")
        store.flush()
        with open(f"{path}-checkpoint", "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        turns.append(1)
        write(self, *args, **options)

    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        store.flush()
        store.set(b"key", b"later")
        monkeypatch.setattr(Sidecar, "write", interrupted)
        store.flush()
        assert turns == [1]
        assert covered(store) == last_commit(store)
    assert keys_in_next_boot(path) == [b"in the handler", b"key"]
