"""A failed sync: which processes learn of it, what they refuse, and what is left.

The disk is a real one; it is the answer of a sync that is replaced, in processes of their own. That a later sync says
that all is well is what Linux does, and what happens here.
"""

import ast
import errno
import logging
import os
import time
from pathlib import Path

import lmdb
import pytest

from lmdbresults import Options, errors, open_backend, open_store
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.file.lmdb_errors import SyncFailure
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite
from tests.support.boots import in_boot, keys_in, keys_in_next_boot
from tests.support.covering import LONG, covered, last_commit, readers, wait_until
from tests.support.failing import BOTH, checkpoint_of, damage, fail, refuses, run_failing
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


class Syncing:
    """LMDB's environment, with a `sync` that can be replaced."""

    def __init__(self, handle: lmdb.Environment) -> None:
        self.readers, self.begin, self.info, self._sync = handle.readers, handle.begin, handle.info, handle.sync

    def sync(self, force: bool) -> None:
        self._sync(force)


class Refusing(Syncing):
    """The same on a disk that takes nothing any more."""

    def sync(self, force: bool) -> None:
        raise lmdb.DiskError("Input/output error")


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("durability", ["checkpoint", "commit"])
def test_process_that_was_started_since_refuses_writes(path: str, durability: str, code: int) -> None:
    said = fail(path, durability, code)
    before = checkpoint_of(path)
    for wanted in ("checkpoint", "commit"):
        with open_store(path, durability=wanted) as store:
            for attempt in (lambda: store.set(b"more", b"value"), store.flush, lambda: store.delete(b"covered")):
                with pytest.raises(errors.DiskFailed) as caught:
                    attempt()
                assert str(caught.value) == said
            assert sorted(key for key, _ in store.scan()) == BOTH
    assert (path in said, os.strerror(code) in said, "`lmdbresults rewrite`" in said) == (True, True, True)
    assert checkpoint_of(path) == before


@pytest.mark.parametrize("durability", ["checkpoint", "commit"])
def test_process_that_had_the_file_open_before_refuses_writes_too(path: str, durability: str) -> None:
    with open_store(path, durability=durability, checkpoint_interval=LONG) as store:
        store.set(b"first", b"value")
        fail(path)
        before = covered(store)
        if durability == "checkpoint":  # it may go on for a moment
            wait_until(lambda: refuses(store))
        assert refuses(store)
        with pytest.raises(errors.DiskFailed):
            store.flush()
        assert store.get(b"not on the disk") == b"value"
        assert covered(store) == before


@pytest.mark.parametrize("moment", [(Sidecar, "try_lock_checkpoints"), (Syncing, "sync")], ids=["turn", "sync"])
def test_checkpoint_that_has_begun_is_not_made_after_a_failed_sync_of_another_process(
    path: str, monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    kind, name = moment
    original = getattr(kind, name)

    def meanwhile(self: object, *args: object) -> object:
        done = original(self, *args)
        other = Sidecar(path)
        other.note_failure(SyncFailure(time.time(), "as another process was told"))
        other.close()
        return done

    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        store.flush()
        store.set(b"key", b"later")
        before, checkpoints = covered(store), store._environment.file.checkpoints
        monkeypatch.setattr(kind, name, meanwhile)
        monkeypatch.setattr(checkpoints, "_handle", Syncing(checkpoints._handle))
        with pytest.raises(errors.DiskFailed, match="another process"):
            store.flush()
        assert covered(store) == before


def test_earlier_commits_still_count_as_durable(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"first", b"value")
        store.flush()
        number = last_commit(store)
        fail(path)
        store._environment.flush(number)


def test_threads_that_wait_for_a_commit_get_the_error(path: str) -> None:
    """Several threads wait at once; what was acknowledged is there after a power failure, the rest got the error."""
    source = """
import sys, threading, time
from lmdbresults import errors, open_store
from tests.support.failing import fail_next
store = open_store(sys.argv[1], durability="commit")
store.incr(b"0")
told = []
def count(key):
    try:
        for number in range(1, 1000):
            store.incr(key)
            acknowledged[key] = number
    except errors.DiskFailed:
        told.append(key)
acknowledged = dict.fromkeys((b"%d" % number for number in range(1, 6)), 0)
threads = [threading.Thread(target=count, args=(key,)) for key in acknowledged]
for thread in threads:
    thread.start()
while min(acknowledged.values()) < 2:
    time.sleep(0.001)
fail_next(sys.argv[1])
for thread in threads:
    thread.join()
assert sorted(told) == sorted(acknowledged), told
print(acknowledged)
"""
    acknowledged = ast.literal_eval(run_failing(source, path))
    found = in_boot("next", values_in, path)
    assert all(int(found[key]) >= number for key, number in acknowledged.items()), (acknowledged, found)


def values_in(path: str) -> dict[bytes, bytes]:
    store = open_store(path)
    assert store.check(deep=True) == []
    return dict(store.scan())


def test_sync_that_fails_as_a_process_ends_is_known_to_the_next_one(path: str) -> None:
    source = """
import sys
from lmdbresults import open_store
from tests.support.failing import fail_next
store = open_store(sys.argv[1], checkpoint_interval=3600)
store.set(b"key", b"value")
fail_next(sys.argv[1])
"""
    run_failing(source, path)
    with open_store(path) as store:
        assert refuses(store)
        assert store.get(b"key") == b"value"


def test_sync_that_fails_under_the_write_lock_undoes_the_commit_and_is_known_to_the_next_process(path: str) -> None:
    """A writer makes a checkpoint itself if the pin of the former commits is gone."""
    source = """
import os, sys
from lmdbresults import errors, open_store
from tests.support.failing import fail_next
store = open_store(sys.argv[1], checkpoint_interval=3600)
if sys.argv[2] == "is killed":
    store.set(b"one", b"value")
    store.set(b"two", b"value")
    os._exit(0)
assert store._environment.clear_dead_readers()
fail_next(sys.argv[1])
try:
    store.set(b"three", b"value")
except errors.DiskFailed:
    print("refused")
"""
    open_store(path).close()
    with open_store(path) as held:  # so that LMDB's table of readers stays
        assert held.get(b"one") is None
        run_failing(source, path, "is killed")
        assert run_failing(source, path, "comes after it") == "refused\n"
        assert sorted(key for key, _ in held.scan()) == [b"one", b"two"]
        assert refuses(held)


def test_waiter_reads_existing_results_and_can_close(path: str) -> None:
    backend = open_backend(f"lmdb://{path}")
    with backend.store as store:
        backend.mark_as_done("id", 42)
        subscription = store.subscribe()
        subscription.add([b"what does not come"])
        fail(path)
        wait_until(lambda: refuses(store))
        assert backend.wait_for("id", timeout=240)["result"] == 42
        with pytest.raises(errors.DiskFailed):
            backend.mark_as_done("other", 42)


def test_process_that_cannot_note_the_failure_refuses_nevertheless(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        monkeypatch.setattr(Sidecar, "note_failure", fail)
        checkpoints = store._environment.file.checkpoints
        handle, checkpoints._handle = checkpoints._handle, Refusing(checkpoints._handle)
        with caplog.at_level(logging.ERROR), pytest.raises(errors.DiskFailed):
            store.flush()
        checkpoints._handle = handle
        assert refuses(store)
    assert "cannot note for other processes" in caplog.text
    with open_store(path) as store:
        assert refuses(store) is False


# -- the checkpoint that is left ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["checkpoint", "commit"])
def test_after_a_restart_the_file_is_at_its_checkpoint_and_stores_again(path: str, durability: str) -> None:
    fail(path, durability)

    def go_on() -> list[bytes]:
        store = open_store(path, durability=durability)
        found = sorted(key for key, _ in store.scan())
        store.set(b"later", b"value")
        store.flush()
        return found

    kept = BOTH if durability == "commit" else [b"covered"]  # the log has what it has acknowledged
    assert in_boot("next", go_on) == kept
    assert in_boot("the one after", keys_in, path) == sorted([*kept, b"later"])


def test_checkpoint_is_not_overwritten_although_no_pin_is_left(path: str) -> None:
    fail(path)
    for durability in ("none", "checkpoint", "commit", "none"):
        with open_store(path, durability=durability) as store:
            assert "no active readers" in readers(store)
            for _ in range(3):
                assert refuses(store)
    assert keys_in_next_boot(path) == [b"covered"]


def test_a_file_that_takes_the_place_of_a_failed_one_is_not_refused(path: str, tmp_path: Path) -> None:
    fail(path)
    with open_store(path) as store:
        store.backup(tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    with open_store(path) as store:
        assert refuses(store) is False
    assert keys_in_next_boot(path) == sorted([*BOTH, b"more"])


# -- none --------------------------------------------------------------------------------------------------------------


def test_without_checkpoints_writes_go_on_but_flush_raises(path: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "`lmdbresults rewrite`" in fail(path, "none")
    with caplog.at_level(logging.ERROR), open_store(path, durability="none") as store:
        store.set(b"more", b"value")
        with pytest.raises(errors.DiskFailed):
            store.flush()
    assert "without having been synced" in caplog.text
    damage(path)
    with pytest.raises(errors.FileDamaged):  # it is verified, as it was not closed cleanly
        in_boot("next", lambda: open_store(path, durability="none"))


def test_checkpoints_are_refused_after_a_failed_sync_without_them(path: str) -> None:
    fail(path, "none")
    with open_store(path) as store:
        assert refuses(store)
    rewrite(Options(path=path))
    with open_store(path) as store:
        assert not refuses(store)


def test_note_holds_the_time_of_the_failure(path: str) -> None:
    began = time.time()
    fail(path)
    sidecar = Sidecar(path)
    try:
        assert began <= sidecar.failure().at <= time.time()
        assert sidecar.failure().reason.endswith("Input/output error")
    finally:
        sidecar.close()
