"""The log under durability ``commit``: what it has after a power failure, and what breaks its chain of records.

In the next boot a file goes back to its last checkpoint, so what is there beyond that is from the log. No checkpoint is
made in time here, so that is nearly everything.
"""

import errno
import os
import random
import resource
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, Options, errors, open_store
from lmdbresults.store.lmdb.durability import log_file
from lmdbresults.store.lmdb.durability.log import Log
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite
from lmdbresults.store.lmdb.maintenance.salvage import salvage
from lmdbresults.store.queues import Message
from lmdbresults.testing import FakeClock
from tests.support.boots import in_boot, keys_in, keys_in_next_boot
from tests.support.covering import LONG, covered, last_commit, wait_until, write_and_stay
from tests.support.failing import run_failing
from tests.support.processes import FORKS_WITH_THREADS, ChildDied, child, in_child, in_children

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


#: Stores that are not closed as garbage, by which they would make a last checkpoint.
_kept: list[LMDBStore] = []


def opened(path: str, durability: str = "commit", **options: Any) -> LMDBStore:
    _kept.append(open_store(path, durability=durability, checkpoint_interval=LONG, **options))
    return _kept[-1]


def begun(path: str, durability: str = "commit", **options: Any) -> LMDBStore:
    """A store whose first commits are covered by a checkpoint: from then on the log is enough."""
    store = opened(path, durability, **options)
    store.set(b"begun", b"value")
    store.flush()
    return store


def raw_content(path: str) -> list[tuple[bytes, bytes]]:
    """Everything that the file holds, as LMDB has it."""
    store = open_store(path)
    return store._environment.read(lambda raw: [(bytes(key), bytes(value)) for key, value in raw.cursor()])


def in_next_boot(path: str) -> list[tuple[bytes, bytes]]:
    content: list[tuple[bytes, bytes]] = in_boot("next", raw_content, path)
    return content


# -- what it has -------------------------------------------------------------------------------------------------------


def do_everything(store: LMDBStore, clock: FakeClock, choose: random.Random) -> None:
    """Use each way in which a store changes its file."""
    keys = [b"key %d" % number for number in range(30)] + [bytes([65 + number]) * 600 for number in range(5)]
    store.queues.declare("queue")
    for _ in range(300):
        key, size = choose.choice(keys), choose.choice((3, 300, 3000, 50_000))
        verb = choose.randrange(9)
        if verb < 3:
            store.set(key, choose.randbytes(size), choose.choice((None, 5, 50)))
        elif verb == 3:
            store.delete(key)
        elif verb == 4:
            store.incr(b"counter", 1, 5)
        elif verb == 5:
            store.queues.publish([Message(b"body", "queue", priority=choose.randrange(3))])
        elif verb == 6:
            for message in store.queues.take(["queue"], 2).deliveries:
                store.queues.acknowledge(message.tag)
        elif verb == 7:
            with store.write() as txn:
                txn.set(key, b"value")
                txn.expire(key, 7)
                txn.add(b"added", b"value", 1)
        else:
            clock.advance(choose.random() * 3)
    store.sweep()


def test_file_is_the_same_after_a_replay_whatever_was_done(path: str) -> None:
    def write() -> None:
        clock = FakeClock()
        store = begun(path, clock=clock)
        do_everything(store, clock, random.Random(7))
        assert covered(store) < last_commit(store) - 100

    in_child(write)
    live = in_child(raw_content, path)
    assert len(live) > 30
    assert in_next_boot(path) == live


def test_threads_of_several_processes_find_all_that_was_acknowledged(path: str) -> None:
    begun(path).close()

    def write(number: int) -> None:
        store = opened(path)
        work: Callable[[int], object] = lambda thread: [  # noqa: E731
            store.set(b"%d %d %d" % (number, thread, count), bytes(300)) for count in range(20)
        ]
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_children(3, write)
    assert len(keys_in_next_boot(path)) == 1 + 3 * 3 * 20


def test_parent_and_child_of_a_fork_go_on_with_it(path: str) -> None:
    def write() -> None:
        store = begun(path)
        for number in range(5):
            store.set(b"parent %d" % number, b"value")
            in_child(store.set, b"child %d" % number, b"value")

    in_child(write)
    assert len(keys_in_next_boot(path)) == 11


def test_checkpoints_switch_halves_and_nothing_between_is_lost(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "HALF_BYTES", 64 << 10)

    def write() -> None:
        store = begun(path)
        for number in range(400):  # 140 kB
            store.set(b"%d" % number, bytes(300))
            if number % 50 == 20:
                store.flush()

    in_child(write)
    assert len(keys_in_next_boot(path)) == 401


def test_boot_after_boot_has_all_that_was_acknowledged(path: str) -> None:
    def write(number: int) -> list[bytes]:
        store = opened(path)
        found = sorted(key for key, _ in store.scan())
        for count in range(3):
            store.set(b"%d %d" % (number, count), bytes(300))
        return found

    for number in range(5):
        assert len(in_boot(f"boot {number}", write, number)) == 3 * number


# -- kills -------------------------------------------------------------------------------------------------------------


def be_killed(work: Callable[[], object], since: Callable[..., object], at: int) -> int:
    """Do something, and be killed at a call once a function has begun; return how many there are."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event != "return" and (calls > 0 or frame.f_code is since.__code__)
        if calls == at > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    work()
    sys.setprofile(None)
    return calls


def set_and_be_killed(path: str, at: int) -> int:
    store = opened(path)
    store.set(b"first", b"value")
    return be_killed(lambda: store.set(b"victim", bytes(300)), Log.append, at)


def flush_and_be_killed(path: str, at: int) -> int:
    store = opened(path)
    store.set(b"first", b"value")
    return be_killed(store.flush, Log.switch, at)


def keep_pin(path: str, told: int) -> None:
    """Hold the pin of the checkpoint, as otherwise the next process makes one, and the log begins again."""
    begun(path).set(b"kept", b"value")
    os.write(told, b".")
    os.read(os.pipe()[0], 1)


def empty(folder: Path) -> None:
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


BETWEEN: dict[str, Callable[[str], object]] = {
    "nothing": lambda path: None,
    "another durability": lambda path: opened(path, "checkpoint").set(b"between", b"value"),
    "what the log has no room for": lambda path: opened(path, "checkpoint").set(b"between", bytes(100_000)),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_no_record_of_a_killed_process_is_followed_by_those_of_others(
    path: str, between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call of a store it dies at."""
    monkeypatch.setattr(log_file, "HALF_BYTES", 64 << 10)
    (ready, told), calls = os.pipe(), 0
    for at in (0, *range(1, 200, 6)):
        empty(Path(path).parent)
        with child(keep_pin, path, told):
            os.read(ready, 1)
            if at > calls:
                break
            with suppress(ChildDied):
                calls = in_child(set_and_be_killed, path, at)
            in_child(BETWEEN[between], path)
            in_child(lambda: opened(path).set(b"successor", b"value"))
        live = in_child(raw_content, path)
        assert in_next_boot(path) == live, at


def test_process_killed_as_it_begins_a_half_costs_others_nothing(path: str) -> None:
    """Whichever call it dies at, until the checkpoint is made: others go on behind the last record, or wait."""
    (ready, told), calls = os.pipe(), 0
    for at in (0, *range(2, 200, 6)):
        empty(Path(path).parent)
        with child(keep_pin, path, told):
            os.read(ready, 1)
            if at > calls:
                break
            with suppress(ChildDied):
                calls = in_child(flush_and_be_killed, path, at)
            in_child(lambda: opened(path).set(b"successor", b"value"))
        live = in_child(raw_content, path)
        assert in_next_boot(path) == live, at


def test_half_is_kept_until_a_checkpoint_is_durable_that_covers_it(path: str) -> None:
    def be_killed_in_a_checkpoint(number: int) -> None:
        store = opened(path)
        store.set(b"%d" % number, b"value")
        Sidecar.write = lambda *args, **options: os._exit(0)
        store.flush()

    ready, told = os.pipe()
    with child(keep_pin, path, told):
        os.read(ready, 1)
        for number in range(4):
            with pytest.raises(ChildDied):
                in_child(be_killed_in_a_checkpoint, number)
    assert keys_in_next_boot(path) == [b"0", b"1", b"2", b"3", b"begun", b"kept"]


def test_successor_of_a_record_without_a_commit_is_synced_though_that_was(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is synced by another thread, its commit fails, and the next commit has the same number."""
    with begun(path) as store:
        store.set(b"before", b"value")
        file = store._environment.file
        log, before_commit, synced, fdatasync = file.checkpoints.log, file.before_commit, [], os.fdatasync

        def fail(txn: Any) -> None:
            before_commit(txn)
            log.sync(txn.id())
            raise InterruptedError

        file.before_commit = fail
        with pytest.raises(InterruptedError):
            store.set(b"undone", b"value")
        file.before_commit = before_commit
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: (synced.append(descriptor), fdatasync(descriptor)))
        store.set(b"successor", b"value")
        assert log._descriptor in synced


def open_and_be_killed(path: str, at: int) -> int:
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    opened(path)
    sys.setprofile(None)
    return calls


def test_record_that_is_damaged_is_not_done_again_nor_is_what_follows(path: str) -> None:
    def write() -> None:
        store = begun(path)
        for key in (b"first", b"second", b"third"):
            store.set(key, b"value of " + key)

    in_child(write)
    log = Path(f"{path}-log")
    data = log.read_bytes()
    log.write_bytes(data.replace(b"value of second", b"value of others"))
    assert keys_in_next_boot(path) == [b"begun", b"first"]


def test_a_replay_that_is_cut_off_begins_again(path: str, tmp_path: Path) -> None:
    def write() -> None:
        store = begun(path)
        for number in range(30):
            store.set(b"%d" % number, bytes(300))

    in_child(write)
    live = in_child(raw_content, path)
    shutil.copytree(tmp_path, tmp_path / "kept", ignore=shutil.ignore_patterns("kept", "*-wake"))
    calls = in_boot("next", open_and_be_killed, path, 0)
    for at in range(1, calls, max(calls // 25, 1)):
        shutil.copytree(tmp_path / "kept", tmp_path, dirs_exist_ok=True)
        with pytest.raises(ChildDied):
            in_boot("next", open_and_be_killed, path, at)
        assert in_boot("next", raw_content, path) == live, at


# -- processes of other durabilities -----------------------------------------------------------------------------------


def test_without_commit_there_is_no_log(path: str) -> None:
    for durability in ("none", "checkpoint"):
        with open_store(path, durability=durability) as store:
            store.set(b"key", b"value")
            assert store._environment.file.checkpoints.log is None
    assert not os.path.exists(f"{path}-log")


@pytest.mark.parametrize("other", ["checkpoint", "none"])
def test_processes_that_do_not_wait_write_to_the_log_of_those_that_do(path: str, other: str) -> None:
    """The others have the file open before there is a log; they must not go on without."""

    def write_on(told: int, order: int) -> None:
        store = opened(path, other)
        store.set(b"before", b"value")
        os.write(told, b".")
        while os.read(order, 1):
            store.incr(b"other")
            os.write(told, b".")

    def commit() -> None:
        store = opened(path)
        for number in range(5):
            store.set(b"ours %d" % number, b"value")
            os.write(command, b".")
            os.read(ready, 1)
        store.set(b"last", b"value")

    (ready, told), (order, command) = os.pipe(), os.pipe()
    with child(write_and_stay, path, told, {"checkpoint_interval": LONG}):  # so that the file has checkpoints
        os.read(ready, 1)
        with child(write_on, told, order):
            os.read(ready, 1)
            in_child(commit)
    live = in_child(raw_content, path)
    assert in_next_boot(path) == live


@pytest.mark.parametrize("reads", [False, True])
def test_checkpoint_that_was_begun_before_there_was_a_log_takes_no_other_pin_for_its_own(
    path: str, reads: bool
) -> None:
    """The pins of both are on the same commit, and so is a reader, by which no writer finds that there is a log."""
    (ready, told), (begun, begin) = os.pipe(), os.pipe()
    write = Sidecar.write

    def wait_for_the_other(sidecar: Sidecar, *args: Any, **options: Any) -> None:
        Sidecar.write = write
        os.write(begin, b".")
        os.read(ready, 1)
        write(sidecar, *args, **options)

    def make_checkpoint() -> bool:
        store = opened(path, "checkpoint")
        store.set(b"key", b"value")
        Sidecar.write = wait_for_the_other
        with ThreadPoolExecutor() as pool, store.read() if reads else nullcontext():
            pool.submit(store.flush).result()
            pool.submit(store.set, b"key", b"value").result()
        return store._environment.file.checkpoints.log is not None

    with child(make_checkpoint) as slower:
        os.read(begun, 1)
        with child(write_and_stay, path, told, {"durability": "commit", "checkpoint_interval": LONG}):
            assert slower.join()


def test_process_that_flushes_before_it_stores_begins_the_log(path: str) -> None:
    def commit() -> bool:
        store = opened(path)
        store.flush()
        for number in range(3):
            store.set(b"%d" % number, b"value")
        return covered(store) < last_commit(store)

    ready, told = os.pipe()
    with child(write_and_stay, path, told, {"checkpoint_interval": LONG}):
        os.read(ready, 1)
        assert in_child(commit)
    assert keys_in_next_boot(path) == [b"0", b"1", b"2", b"written"]


def test_log_ends_when_no_process_needs_it(path: str) -> None:
    begun(path).close()
    for durability, has_log in (("checkpoint", False), ("commit", True), ("checkpoint", False)):
        with opened(path, durability) as store:
            store.set(durability.encode(), b"value")
            assert (store._environment.file.checkpoints.log is not None) is has_log
    assert keys_in_next_boot(path) == [b"begun", b"checkpoint", b"commit"]


def test_log_is_kept_for_what_was_acknowledged_though_the_next_process_does_not_wait(path: str) -> None:
    def write(durability: str) -> None:
        begun(path, durability) if durability == "commit" else opened(path, durability)
        opened(path, durability).set(durability.encode(), b"value")

    in_child(write, "commit")
    in_child(write, "checkpoint")
    assert b"commit" in keys_in_next_boot(path)


# -- where it cannot be written ----------------------------------------------------------------------------------------


def test_what_is_larger_than_the_log_waits_for_a_checkpoint(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "HALF_BYTES", 64 << 10)

    def write() -> None:
        store = begun(path)
        for number in range(6):
            store.set(b"small %d" % number, b"value")
            store.set(b"large %d" % number, bytes(100_000))
        store.set(b"last", b"value")
        assert covered(store) < last_commit(store)  # there is a new chain

    in_child(write)
    assert len(keys_in_next_boot(path)) == 14


def no_room(*_: object) -> None:
    raise errors.StoreFull("the disk has no room for it")


def fail_to_read(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def store_and_wait_for_checkpoints(path: str, count: int) -> None:
    """Store so many records, each of which a checkpoint must cover at once."""
    with opened(path) as store:
        for number in range(count):
            store.set(b"%d" % number, b"value")
            assert covered(store) == last_commit(store)


def test_log_that_cannot_be_read_is_not_used(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun(path).close()
    monkeypatch.setattr(log_file, "read_header", fail_to_read)
    store_and_wait_for_checkpoints(path, 3)
    assert caplog.text.count("results.lmdb-log cannot be used") == 1
    assert "Input/output error" in caplog.text


def test_log_that_cannot_be_read_after_a_power_failure_is_not_given_up_without_a_word(path: str) -> None:
    in_child(lambda: begun(path).set(b"logged", b"value"))

    def open_and_fail() -> None:
        log_file.read_header = fail_to_read
        with pytest.raises(errors.OpenError, match=r"results.lmdb-log cannot be read .* move the log away"):
            opened(path)

    in_boot("next", open_and_fail)
    assert in_boot("next", keys_in, path) == [b"begun", b"logged"]


def test_sidecar_that_cannot_be_written_is_an_error_that_names_the_cure(path: str) -> None:
    with begun(path) as store:
        with pytest.MonkeyPatch.context() as failing:
            failing.setattr(Sidecar, "note_position", fail_to_read)
            with pytest.raises(errors.DiskFailed, match="lmdbresults rewrite"):
                store.set(b"refused", b"value")
            failing.setattr(Sidecar, "read", fail_to_read)
            with pytest.raises(errors.DiskFailed, match="lmdbresults rewrite"):
                store.flush()
        store.set(b"key", b"value")
    assert keys_in_next_boot(path) == [b"begun", b"key"]


def test_without_room_for_the_log_commits_wait_for_checkpoints_and_that_is_told_once(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(paths, "create_log", no_room)
    store_and_wait_for_checkpoints(path, 5)
    assert caplog.text.count("results.lmdb-log cannot be used") == 1
    assert "the disk has no room for it" in caplog.text
    assert len(keys_in_next_boot(path)) == 5


def test_record_that_is_cut_short_by_a_file_size_limit_does_not_count(path: str) -> None:
    def write() -> None:
        store = begun(path)
        store.set(b"before", b"value")
        log = store._environment.file.checkpoints.log
        position = log._position()
        limit = position.half * log_file.HALF_BYTES + position.end + 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        store.set(b"cut", b"x" * 3000)

    in_child(write)
    assert keys_in_next_boot(path) == [b"before", b"begun", b"cut"]


def test_store_that_cannot_sync_the_folder_waits_for_a_checkpoint(path: str) -> None:
    """There is no descriptor left when it first relies on a new chain."""

    def write() -> None:
        store = begun(path)
        store.set(b"large", bytes(5 << 20))  # the chain ends
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        store.set(b"key", b"value")
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    in_child(write)
    assert keys_in_next_boot(path) == [b"begun", b"key", b"large"]


def test_nothing_is_acknowledged_without_a_sidecar(path: str) -> None:
    with begun(path) as store:
        store.set(b"before", b"value")
        os.unlink(f"{path}-checkpoint")
        store.set(b"after", b"value")
        assert os.path.exists(f"{path}-checkpoint")
        assert covered(store) == last_commit(store)


def test_checkpoint_whose_sidecar_was_deleted_does_not_count(path: str) -> None:
    with begun(path) as store:
        os.unlink(f"{path}-checkpoint")
        store._environment.flush(last_commit(store))
        assert covered(store) == last_commit(store)


def test_process_with_a_deleted_sidecar_leaves_the_log_to_those_that_have_made_another_one(path: str) -> None:
    def write_again(told: int, order: int) -> None:
        store = opened(path, "checkpoint")
        for _ in range(2):
            store.incr(b"other")
            os.write(told, b".")
            os.read(order, 1)

    def commit() -> None:
        store = begun(path)
        os.write(begun_it, b".")
        os.read(ready, 1)
        os.unlink(f"{path}-checkpoint")
        store.set(b"another one is made", b"value")
        store.flush()
        for number in range(5):
            store.set(b"%d" % number, b"value")
        os.write(command, b".")
        os.read(ready, 1)

    (ready, told), (order, command), (has_begun, begun_it) = os.pipe(), os.pipe(), os.pipe()
    with child(commit) as process:
        os.read(has_begun, 1)
        with child(write_again, told, order):
            process.join()
    assert {b"%d" % number for number in range(5)} <= set(keys_in_next_boot(path))


def test_transaction_that_changes_nothing_needs_no_log(path: str) -> None:
    """A process has no descriptor for the log, and there is no record after the last checkpoint."""

    def delete_nothing(sets: int) -> bool:
        store = opened(path)
        for _ in range(sets):
            store.set(b"key", b"value")
        store.flush()
        os.unlink(f"{path}-log")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            for _ in range(sets):
                store.set(b"key", b"value")
            return store.delete(b"absent")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    ready, told = os.pipe()
    with child(write_and_stay, path, told, {"durability": "commit", "checkpoint_interval": LONG}):
        os.read(ready, 1)
        for sets in (0, 2):
            assert not in_child(delete_nothing, sets)


def test_store_whose_log_is_closed_before_its_sync_waits_for_a_checkpoint(path: str) -> None:
    with begun(path) as store, ThreadPoolExecutor() as pool:
        store.set(b"before", b"value")
        log = store._environment.file.checkpoints.log
        with log._syncing:
            stored = pool.submit(store.set, b"key", b"value")
            wait_until(lambda: store.get(b"key") is not None)
            os.unlink(f"{path}-log")
            log._open(last_commit(store))
        assert stored.result()
        assert covered(store) == last_commit(store)


@pytest.mark.parametrize("harm", [os.unlink, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 90_000)])
def test_log_that_is_deleted_or_truncated_in_use_costs_nothing_acknowledged_later(
    path: str, harm: Callable[[str], None]
) -> None:
    def write() -> None:
        store = begun(path)
        store.set(b"before", b"value")
        harm(f"{path}-log")
        for number in range(5):
            store.set(b"%d" % number, b"value")
            in_child(lambda number=number: opened(path).set(b"other %d" % number, b"value"))

    in_child(write)
    assert len(keys_in_next_boot(path)) == 12


def test_log_that_was_deleted_between_two_processes_is_not_taken_for_the_new_one(path: str) -> None:
    ready, told = os.pipe()
    with child(write_and_stay, path, told, {"checkpoint_interval": LONG}):  # holds the pin
        os.read(ready, 1)
        for number in range(3):
            in_child(lambda number=number: [opened(path).set(b"%d" % number, b"value") for _ in range(5)])
            os.unlink(f"{path}-log")  # its inode is free for the next one
        in_child(lambda: [opened(path).set(b"%d" % number, b"value") for number in range(10)])
    assert len(keys_in_next_boot(path)) == 11


def test_failed_sync_of_the_log_has_all_processes_refuse_and_rewrite_cures_it(path: str) -> None:
    source = """
import sys
from lmdbresults import errors, open_store
from tests.support.failing import fail_next
store = open_store(sys.argv[1], durability="commit", checkpoint_interval=3600)
store.set(b"first", b"value")
store.set(b"logged", b"value")
fail_next(sys.argv[1] + "-log")
for _ in range(2):
    try:
        store.set(b"refused", b"value")
    except errors.DiskFailed as error:
        print(error)
"""
    assert run_failing(source, path).count("lmdbresults rewrite") == 2

    def refuses() -> None:
        for durability in ("commit", "checkpoint"):
            with opened(path, durability) as store, pytest.raises(errors.DiskFailed):
                store.set(b"other", b"value")

    in_child(refuses)
    assert set(keys_in_next_boot(path)) >= {b"first", b"logged"}


def test_after_a_rewrite_there_is_a_new_log(path: str) -> None:
    source = """
import sys
from contextlib import suppress
from lmdbresults import errors, open_store
from tests.support.failing import fail_next
store = open_store(sys.argv[1], durability="commit", checkpoint_interval=3600)
store.set(b"first", b"value")
fail_next(sys.argv[1] + "-log")
with suppress(errors.DiskFailed):
    store.set(b"refused", b"value")
"""
    run_failing(source, path)
    rewrite(Options(path=path))
    in_child(lambda: [opened(path).set(key, b"value") for key in (b"one", b"two")])
    assert set(keys_in_next_boot(path)) >= {b"first", b"one", b"two"}


# -- files -------------------------------------------------------------------------------------------------------------


def left_behind(path: str, name: bytes = b"logged") -> None:
    in_child(lambda: begun(path).set(name, b"value"))


def test_copy_of_all_files_has_what_the_log_has(path: str, tmp_path: Path) -> None:
    left_behind(path)
    (tmp_path / "copy").mkdir()
    for suffix in ("", "-checkpoint", "-log"):
        shutil.copy(path + suffix, tmp_path / "copy" / f"results.lmdb{suffix}")
    assert keys_in_next_boot(str(tmp_path / "copy" / "results.lmdb")) == [b"begun", b"logged"]


def test_records_of_another_file_are_not_done_again(path: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.lmdb")
    left_behind(path)
    left_behind(other, b"of the other")
    shutil.copy(f"{other}-log", f"{path}-log")
    assert keys_in_next_boot(path) == [b"begun"]


@pytest.mark.parametrize("boot_id", ["", "next"])
@pytest.mark.parametrize("beside", [[], ["-checkpoint"]], ids=["all files stay", "the sidecar is deleted"])
def test_restored_backup_gets_nothing_from_the_log_beside_it(
    path: str, tmp_path: Path, boot_id: str, beside: list[str]
) -> None:
    with begun(path) as store:
        store.backup(tmp_path / "backup.lmdb")
    shutil.copy(path, tmp_path / "copied.lmdb")
    left_behind(path)
    for restored in ("backup.lmdb", "copied.lmdb"):
        shutil.copy(tmp_path / restored, path)
        for suffix in beside:
            os.unlink(path + suffix)
        assert (in_boot(boot_id, keys_in, path) if boot_id else in_child(keys_in, path)) == [b"begun"]
        in_child(lambda: [opened(path).set(key, b"value") for key in (b"one", b"two")])
        assert in_boot("the one after", keys_in, path) == [b"begun", b"one", b"two"]


def test_salvage_takes_what_opening_would_do_again(path: str, tmp_path: Path) -> None:
    left_behind(path)
    target = str(tmp_path / "salvaged.lmdb")
    in_boot("next", salvage, path, target)
    assert in_child(keys_in, target) == [b"begun", b"logged"]


def test_log_has_the_mode_of_the_file(path: str) -> None:
    before = os.umask(0o077)
    try:
        opened(path, mode=0o660).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{path}-log").st_mode) == 0o660


def test_log_that_is_a_symbolic_link_is_refused(path: str, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", f"{path}-log")
    with pytest.raises(errors.SymlinkRefused):
        opened(path)
