"""Checkpoints while processes write: when and by which process they are made, what they cover, and their pins."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmdbresults import errors, open_backend, open_store
from lmdbresults.store.lmdb.durability.checkpointer import Checkpointer
from lmdbresults.store.lmdb.durability.checkpoints import Checkpoints
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from tests.support.boots import in_boot, keys_in, keys_in_next_boot
from tests.support.covering import LONG, SHORT, covered, last_commit, readers, wait_until, write_and_stay
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, child, in_child, in_children

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


# -- in time -----------------------------------------------------------------------------------------------------


def test_writes_are_covered_in_time_and_then_no_more_checkpoints_are_made(path: str) -> None:
    with open_store(path, checkpoint_interval=SHORT) as store:
        for number in range(3):
            store.set(b"%d" % number, b"value")
            wait_until(lambda: covered(store) == last_commit(store))
            wait_until(lambda: "no active readers" in readers(store))  # no pin: nothing keeps pages from reuse
        sidecar = Path(f"{path}-checkpoint")
        before = sidecar.stat().st_mtime_ns
        time.sleep(10 * SHORT)
        assert sidecar.stat().st_mtime_ns == before


def test_a_store_that_is_only_read_makes_no_checkpoint_and_has_no_thread(path: str) -> None:
    open_store(path).close()
    threads = threading.active_count()
    before = Path(f"{path}-checkpoint").stat().st_mtime_ns
    with open_store(path, checkpoint_interval=SHORT) as store:
        assert store.get(b"key") is None
        assert threading.active_count() <= threads
    assert Path(f"{path}-checkpoint").stat().st_mtime_ns == before


def test_many_bytes_are_covered_before_the_interval_ends(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG, checkpoint_bytes=1 << 20) as store:
        store.set(b"key", b"value")
        first = covered(store)
        for number in range(200):
            store.set(b"%d" % number, os.urandom(10_000))
        wait_until(lambda: covered(store) > first)


def test_a_flood_grows_the_file_by_a_bounded_number_of_checkpoints(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG, checkpoint_bytes=1 << 20) as store:
        for number in range(5000):
            store.set(b"%d" % (number % 10), b"value" * 100)
        # Each write frees pages that a pin keeps: without checkpoints it would be 100 MB.
        assert store.stats().file_size < 20 << 20


def test_flush_covers_everything_so_far(path: str) -> None:
    def write() -> None:
        store = open_store(path, checkpoint_interval=LONG)
        store.set(b"covered", b"value")
        store.flush()
        assert covered(store) == last_commit(store)
        store.set(b"not covered", b"value")

    in_child(write)
    assert keys_in_next_boot(path) == [b"covered"]


@pytest.mark.interface("flush")
def test_a_backend_has_everything_so_far_survive_a_loss_of_power(path: str) -> None:
    def write() -> None:
        backend = open_backend(path, checkpoint_interval=LONG)
        backend.store_result("one", 1, "SUCCESS")
        backend.flush()
        backend.store_result("two", 2, "SUCCESS")

    in_child(write)
    assert keys_in_next_boot(path) == [b"celery-task-meta-one"]


def test_flush_is_refused_inside_a_transaction(path: str) -> None:
    with open_store(path) as store, store.write() as txn:
        txn.set(b"key", b"value")
        with pytest.raises(errors.NestedTransaction):
            store.flush()


def test_closing_covers_everything(path: str) -> None:
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
    assert keys_in_next_boot(path) == [b"key"]


def test_the_end_of_the_interpreter_covers_everything(path: str) -> None:
    from tests.support.processes import run_script

    source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1]).set(b'key', b'value')"
    assert run_script(source, path).stderr == ""
    assert keys_in_next_boot(path) == [b"key"]


def test_where_no_thread_can_be_started_the_writer_makes_the_checkpoint(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpointer, "wake", lambda self: False)
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"key", b"value")
        assert covered(store) == last_commit(store)


# -- commit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
def test_under_commit_nothing_acknowledged_is_lost(path: str, number: int) -> None:
    def write() -> None:
        store = open_store(path, durability="commit", checkpoint_interval=LONG)
        store.set(b"set", b"value")
        store.incr(b"counted")
        with store.write() as txn:
            txn.set(b"in a block", b"value")
        store.update(lambda txn: txn.set(b"updated", b"value"))
        store.set(b"deleted", b"value")
        store.delete(b"deleted")

    in_child(write)
    assert keys_in_next_boot(path) == [b"counted", b"in a block", b"set", b"updated"]


def test_under_commit_threads_share_what_they_wait_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    write = Sidecar.write

    def count(self: Sidecar, *args: object, **options: bool) -> None:
        time.sleep(0.01)  # as long as a disk may take, so that the others have arrived by then
        made.append(1)
        write(self, *args, **options)

    monkeypatch.setattr(Sidecar, "write", count)
    with open_store(path, durability="commit") as store:
        del made[:]

        def work(thread: int) -> None:
            for number in range(10):
                store.set(b"%d %d" % (thread, number), b"value")
                assert covered(store) >= 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(store.scan())) == 80
        assert len(made) < 60


def test_under_commit_processes_share_a_file_with_those_that_make_checkpoints(path: str) -> None:
    def work(number: int) -> None:
        with open_store(path, durability=["commit", "checkpoint"][number % 2]) as store:
            for turn in range(50):
                store.set(b"%d %d" % (number, turn), b"value")

    in_children(4, work)
    assert len(keys_in_next_boot(path)) == 200


# -- others ------------------------------------------------------------------------------------------------------


def test_running_process_covers_what_a_killed_one_wrote(path: str) -> None:
    with open_store(path, checkpoint_interval=SHORT) as store:
        store.set(b"key", b"value")  # so that this process watches the others
        store.flush()
        ours, theirs = os.pipe()
        with child(write_and_stay, path, theirs, {"checkpoint_interval": LONG}) as other:
            os.read(ours, 1)
            other.kill()
        wait_until(lambda: covered(store) == last_commit(store))
    assert keys_in_next_boot(path) == [b"key", b"written"]


def test_stopped_process_is_not_waited_for(path: str) -> None:
    with open_store(path, checkpoint_interval=SHORT) as store:
        ours, theirs = os.pipe()
        with child(write_and_stay, path, theirs, {"checkpoint_interval": LONG}) as other:
            os.read(ours, 1)
            os.kill(other.pid, signal.SIGSTOP)
            store.set(b"key", b"value")
            wait_until(lambda: covered(store) == last_commit(store))
            os.kill(other.pid, signal.SIGCONT)


def keep_the_gil(path: str, started: int) -> None:
    """Store something, which pins a checkpoint; then run C code that does not release the GIL."""
    store = open_store(path, checkpoint_interval=LONG)
    store.set(b"written", b"value")
    os.write(started, b".")
    sum(range(10**11))


def be_stopped(path: str, started: int) -> None:
    """Store something, which pins a checkpoint; then stop."""
    store = open_store(path, checkpoint_interval=LONG)
    store.set(b"written", b"value")
    os.write(started, b".")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(PATIENCE)


@pytest.mark.parametrize("hold_pin", [be_stopped, keep_the_gil])
def test_file_stays_small_beside_a_process_that_holds_a_pin_and_does_not_run(
    path: str, hold_pin: Callable[[str, int], None]
) -> None:
    ours, theirs = os.pipe()
    with child(hold_pin, path, theirs) as other:
        os.read(ours, 1)
        with open_store(path, checkpoint_interval=SHORT, checkpoint_bytes=1 << 20) as store:
            for number in range(4000):  # 100 MB of pages
                store.set(b"%d" % (number % 10), b"value" * 100)
            stats = store.stats()
            assert stats.file_size <= stats.live_size + (8 << 20)
            os.kill(other.pid, signal.SIGCONT)
            for number in range(100):
                store.set(b"%d" % number, b"value")
            assert store.check(deep=True) == []
        other.kill()
    assert len(keys_in_next_boot(path)) == 101


def test_full_store_is_not_full_for_ever_beside_a_stopped_pin_holder(path: str) -> None:
    ours, theirs = os.pipe()
    open_store(path, max_size=4 << 20).close()
    with child(be_stopped, path, theirs) as other:
        os.read(ours, 1)
        with open_store(path, checkpoint_interval=LONG, max_size=4 << 20) as store:
            for number in range(1000):
                store.set(b"%d" % (number % 10), os.urandom(10_000))
        other.kill()


def test_process_that_goes_on_after_its_pin_was_freed_loses_nothing(path: str) -> None:
    def write_on(started: int, order: int) -> None:
        store = open_store(path, checkpoint_interval=LONG)
        store.set(b"first", b"value")
        os.write(started, b".")
        os.read(order, 1)
        for number in range(50):
            store.set(b"after %d" % number, bytes(300))
        store.flush()
        store.set(b"lost", b"value")
        os._exit(0)

    (ready, told), (order, command) = os.pipe(), os.pipe()
    with child(write_on, told, order) as other:
        os.read(ready, 1)
        os.kill(other.pid, signal.SIGSTOP)
        in_child(write_much, path)  # makes checkpoints, and frees the pin
        os.kill(other.pid, signal.SIGCONT)
        os.write(command, b".")
        other.wait()
    assert len(keys_in_next_boot(path)) == 1 + 50 + 10


def write_much(path: str) -> None:
    store = open_store(path, checkpoint_interval=SHORT, checkpoint_bytes=1 << 20)
    for number in range(1000):
        store.set(b"%d" % (number % 10), bytes(500))
    store.flush()


def test_a_commit_without_a_pin_is_covered_first(path: str) -> None:
    """The holder of the pin is killed, another process clears its slot, and then one writes."""
    store = open_store(path, checkpoint_interval=LONG)
    ours, theirs = os.pipe()
    with child(write_and_stay, path, theirs, {"checkpoint_interval": LONG}) as other:
        os.read(ours, 1)
        store.set(b"under the pin of another", b"value")
        before = last_commit(store)
        assert covered(store) < before
        other.kill()
    assert store._environment.clear_dead_readers() == 1
    store.set(b"key", b"value")
    assert covered(store) == before
    store.close()
    assert store.options.durability == "checkpoint"
    assert len(keys_in_next_boot(path)) == 3


def test_process_that_opens_a_file_covers_what_killed_ones_wrote(path: str) -> None:
    def write() -> None:
        open_store(path, checkpoint_interval=LONG).set(b"key", b"value")

    in_child(write)
    with open_store(path, checkpoint_interval=SHORT) as store:
        assert store.get(b"key") == b"value"
        wait_until(lambda: covered(store) == last_commit(store))


def test_forks_at_any_moment_leave_parent_and_child_with_checkpoints_of_their_own(path: str) -> None:
    with open_store(path, checkpoint_interval=SHORT) as store:
        for number in range(30):
            store.set(b"parent %d" % number, b"value")
            in_child(lambda number=number: store.set(b"child %d" % number, b"value"))
        wait_until(lambda: covered(store) == last_commit(store))
        assert store.check() == []
    assert len(keys_in_next_boot(path)) == 60


def test_processes_come_and_go_and_are_killed_while_all_write(path: str) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            store = open_store(path, checkpoint_interval=SHORT, checkpoint_bytes=1 << 20)
            for count in range(20):
                store.set(b"%d %d %d" % (number, turn, count), bytes(500))
            if turn % 3 == 0:
                in_child(store.set, b"child of %d %d" % (number, turn), b"")
            if number or turn % 2:
                store.close()

    in_children(4, work)
    with open_store(path) as store:  # which covers what the last process left
        assert store.check(deep=True) == []
        assert len(list(store.scan())) == 4 * 10 * 20 + 4 * 4
    assert len(keys_in_next_boot(path)) == 4 * 10 * 20 + 4 * 4


def test_after_a_reboot_one_process_recovers_the_file_while_the_others_wait(path: str) -> None:
    def write() -> None:
        store = open_store(path, checkpoint_interval=LONG)
        store.set(b"covered", b"value")
        store.flush()
        for number in range(1000):
            store.set(b"%d" % number, bytes(1000))

    in_child(write)
    found = in_boot("next", in_children, 6, lambda number: keys_in(path))
    assert found == [[b"covered"]] * 6


# -- durabilities that meet --------------------------------------------------------------------------------------


def test_durability_none_makes_checkpoints_where_other_processes_rely_on_them(path: str) -> None:
    ours, theirs = os.pipe()
    with child(write_and_stay, path, theirs, {}) as other:
        os.read(ours, 1)
        store = open_store(path, durability="none", checkpoint_interval=SHORT)
        assert isinstance(store._environment.file.checkpoints, Checkpoints)
        store.set(b"key", b"value")
        other.kill()
        wait_until(lambda: covered(store) == last_commit(store))
        store.close()
    assert keys_in_next_boot(path) == [b"key", b"written"]


@pytest.mark.parametrize("durability", ["checkpoint", "commit"])
def test_durability_with_checkpoints_is_refused_where_other_processes_make_none(path: str, durability: str) -> None:
    def try_to_open() -> None:
        with pytest.raises(errors.ConfigurationError, match="durability='none'") as caught:
            open_store(path, durability=durability)
        assert path in str(caught.value)

    with open_store(path, durability="none") as store:
        in_child(try_to_open)
        store.set(b"key", b"value")
    with open_store(path, durability=durability) as store:
        assert store.get(b"key") == b"value"


def test_durability_with_checkpoints_is_accepted_once_the_last_process_without_closes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold_open(told: int, order: int) -> None:
        with open_store(path, durability="none"):
            os.write(told, b".")
            os.read(order, 1)

    def share_late(self: Sidecar) -> None:
        if other.status is None:
            os.write(command, b".")
            other.wait()
        share(self)

    share = Sidecar.lock_shared
    (ready, told), (order, command) = os.pipe(), os.pipe()
    with child(hold_open, told, order) as other:
        os.read(ready, 1)
        monkeypatch.setattr(Sidecar, "lock_shared", share_late)
        open_store(path).close()


def test_file_changes_its_durability_when_no_process_has_it_open(path: str) -> None:
    for number, durability in enumerate(["none", "checkpoint", "none", "commit", "none", "commit", "checkpoint"]):
        with open_store(path, durability=durability) as store:
            store.set(b"%d" % number, b"value")
    assert len(keys_in_next_boot(path)) == 7
