"""Boxes: which process has which, and what is left of one whose owner has died."""

import os
import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify import box as boxes
from lmdbresults.store.lmdb.notify.box import Box, remove_orphaned_boxes, retire_orphaned_boxes
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import ALIVE, FREE, ORPHANED, Marks
from tests.support.processes import FORKS_WITH_THREADS, Child, child, in_children
from tests.support.waits import FOREVER, registrations, sockets, until

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture
def folder(path: str) -> WakeFolder:
    Path(path).touch(mode=0o600)
    return WakeFolder(path, 0o600)


def states(folder: WakeFolder, *numbers: int) -> list[int]:
    marks = Marks(folder.open_marks())
    return [marks.state(number) for number in numbers]


def follow(path: str, *keys: bytes) -> None:
    """Follow keys until killed."""
    with open_store(path, durability="none") as store, closing(store.subscribe()) as subscription:
        subscription.add(keys)
        store.set(b"follows %d" % os.getpid(), b"")
        time.sleep(FOREVER)


def killed(path: str, store: LMDBStore, *keys: bytes) -> None:
    """Have a process follow keys and be killed."""
    with child(follow, path, *keys) as process:
        until(lambda: store.get(b"follows %d" % process.pid) is not None)


class TestNumbers:
    """Which boxes are taken."""

    def test_the_lowest_free_number_is_taken(self, folder: WakeFolder) -> None:
        first, second, third = Box(folder), Box(folder), Box(folder)
        assert [each.number for each in (first, second, third)] == [0, 1, 2]
        second.close()
        again = Box(folder)
        assert again.number == 1
        for each in (first, again, third):
            each.close()
        assert states(folder, 0, 1, 2) == [FREE] * 3

    def test_when_all_are_taken_a_waiter_polls(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(boxes, "BOXES", 2)
        taken = [store.subscribe() for _ in range(2)]
        for each in taken:
            each.add([b"key"])
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.fileno() == -1
        for each in taken:
            each.close()

    def test_processes_that_begin_at_once_get_a_box_each(self, path: str, store: LMDBStore) -> None:
        def work(number: int) -> bool:
            with open_store(path, durability="none") as own:
                subscription = own.subscribe()
                for turn in range(50):
                    key = b"%d/%d" % (number, turn)
                    assert subscription.add([key]) == {key: None}
                    own.set(b"wanted %d" % number, key)
                    if set(subscription.receive(10.0) or ()) != {key}:
                        return False
                    subscription.close()
                    subscription = own.subscribe()
            return True

        def write(number: int) -> bool:
            done: dict[int, bytes | None] = {}
            with open_store(path, durability="none") as own:
                while any((done.get(each) or b"")[-3:] != b"/49" for each in range(4)):
                    for each in range(4):
                        wanted = own.get(b"wanted %d" % each)
                        if wanted is not None and wanted != done.get(each):
                            own.set(wanted, b"done")
                            done[each] = wanted
            return True

        assert in_children(5, lambda number: write(number) if number == 4 else work(number)) == [True] * 5
        assert (registrations(path), sockets(path)) == (0, [])


class TestDeath:
    """What is left of killed processes, and that it does no harm."""

    def test_a_box_of_a_killed_process_is_used_again_without_its_marks(
        self, path: str, store: LMDBStore, subscription: Subscription
    ) -> None:
        killed(path, store, b"old", b"key")
        assert sockets(path) == ["0"]
        subscription.add([b"key"])
        assert sockets(path) == ["0"]
        assert registrations(path) == 1
        store.set(b"old", b"done")
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER) == {b"key": b"done"}

    def test_a_writer_clears_the_sockets_of_killed_processes(self, path: str, store: LMDBStore) -> None:
        with child(follow, path, b"living"), ExitStack() as doomed:
            for number in range(8):
                doomed.enter_context(child(follow, path, b"%d" % number))
            until(lambda: states(store._folder, *range(9)).count(ALIVE) == 9)
            doomed.close()
            store._notifier._verify_at = 0.0  # as if a second had passed
            store.set(b"key", b"value")
            assert len(sockets(path)) == 1

    def test_a_sweep_removes_everything_that_killed_processes_have_left(
        self, path: str, store: LMDBStore, subscription: Subscription, folder: WakeFolder
    ) -> None:
        subscription.add([b"living"])
        killed(path, store, b"absent", b"present")
        store.sweep()
        assert (sockets(path), registrations(path)) == (["0"], 1)
        assert states(folder, 0, 1) == [ALIVE, FREE]
        store.set(b"living", b"done")
        assert subscription.drain() == {b"living"}

    def test_a_message_to_a_killed_process_keeps_nothing_from_others(
        self, path: str, store: LMDBStore, subscription: Subscription
    ) -> None:
        with child(follow, path, b"key") as process:
            until(lambda: store.get(b"follows %d" % process.pid) is not None)
            subscription.add([b"key"])
            store.set(b"key", b"connected to both")
            assert subscription.drain() == {b"key"}
            process.kill()
            store.set(b"key", b"done")
            assert subscription.drain() == {b"key"}

    def test_a_killed_process_is_found_though_its_child_lives(self, path: str, store: LMDBStore) -> None:
        """The child has closed what it inherited of the box."""

        def follow_and_fork() -> None:
            with open_store(path, durability="none") as own, closing(own.subscribe()) as subscription:
                subscription.add([b"key"])
                with child(lambda: (own.set(b"forked", b"%d" % os.getpid()), time.sleep(FOREVER))):
                    time.sleep(FOREVER)

        parent = Child(follow_and_fork)
        until(lambda: store.get(b"forked") is not None)
        parent.close()
        retire_orphaned_boxes(store._folder)
        assert sockets(path) == []
        os.kill(int(store.get(b"forked") or 0), signal.SIGKILL)

    def test_a_stopped_process_keeps_its_box_and_stops_no_other(
        self, path: str, store: LMDBStore, subscription: Subscription, folder: WakeFolder
    ) -> None:
        with child(follow, path, *(b"%d" % number for number in range(100))) as process:
            until(lambda: store.get(b"follows %d" % process.pid) is not None)
            os.kill(process.pid, signal.SIGSTOP)
            subscription.add([b"key"])
            for number in range(100):
                store.set(b"%d" % number, b"done")
            store.set(b"key", b"done")
            assert subscription.drain() == {b"key"}
            remove_orphaned_boxes(folder)
            assert states(folder, 0, 1) == [ALIVE, ALIVE]
            assert sockets(path) == ["0", "1"]

    def test_a_process_that_is_killed_before_its_box_is_in_use_leaves_a_name_that_is_cleared(
        self, path: str, folder: WakeFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(marks: Marks, box: int, lost: bool) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def begin() -> None:
            monkeypatch.setattr(Marks, "set_lost", die)
            Box(folder)

        process = Child(begin)
        process.wait()
        process.close()
        assert sockets(path) == ["0"]
        remove_orphaned_boxes(folder)
        assert sockets(path) == []

    def test_two_writers_that_retire_a_box_at_once_retire_it_once(self, path: str, store: LMDBStore) -> None:
        killed(path, store, b"key")
        folder = store._folder
        busy = Marks(folder.open_marks())
        assert busy.lock(0)  # as another writer that is retiring it
        retire_orphaned_boxes(folder)
        assert states(folder, 0) == [ALIVE]
        busy.close()
        retire_orphaned_boxes(folder)
        assert states(folder, 0) == [ORPHANED]
