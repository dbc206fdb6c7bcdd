"""Subscriptions: forks, threads, signals, full disks, and keys that writers cannot tell from each other."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify.marks import Marks
from lmdbresults.store.thread_hub import ThreadHub
from tests.store.lmdb.notify.test_marks import keys_with_the_same_rows
from tests.support.processes import FORKS_WITH_THREADS, child, in_child
from tests.support.waits import (
    FOREVER,
    followed,
    is_readable,
    registrations,
    sockets,
    threads,
    until,
    wait_for,
)

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def stopped_writer(path: str) -> None:
    """Stop inside a write transaction."""
    with open_store(path, durability="none") as store, store.write() as txn:
        txn.set(b"key", b"value")
        os.kill(os.getpid(), signal.SIGSTOP)


class TestStoppedWriters:
    """Following keys takes no lock that a writer has."""

    def test_keys_can_be_added_and_removed_while_a_writer_is_stopped_in_its_transaction(
        self, path: str, store: LMDBStore, subscription: Subscription
    ) -> None:
        with child(stopped_writer, path) as process:
            os.waitpid(process.pid, os.WUNTRACED)
            assert subscription.add([b"key"]) == {b"key": None}
            assert subscription.receive(0.01) == {}
            subscription.remove([b"key"])
            subscription.close()

    def test_it_works_inside_a_transaction_of_the_same_thread(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key", b"other"])
        with store.write() as txn:
            txn.set(b"key", b"done")
            subscription.remove([b"other"])
            assert subscription.receive(0) == {}
        assert subscription.drain() == {b"key"}


class TestForks:
    """A child begins without keys, and with a box of its own."""

    def test_a_child_gets_its_own_box_and_the_parent_keeps_its_own(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        inherited = subscription.fileno()

        def work() -> None:
            assert (subscription.fileno(), followed(subscription)) == (-1, set())
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(inherited)
            subscription.add([b"child"])
            assert sockets(store.options.path) == ["0", "1"]
            store.set(b"child", b"done")
            assert subscription.drain() == {b"child"}
            subscription.close()

        in_child(work)
        assert sockets(store.options.path) == ["0"]
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_a_child_that_exits_leaves_the_box_of_its_parent(
        self, path: str, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        in_child(subscription.close)
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_a_subscription_that_is_dropped_gives_its_box_back(self, path: str, store: LMDBStore) -> None:
        store.set(b"key", b"value")
        before = len(os.listdir("/proc/self/fd"))
        store.subscribe().add([b"key"])
        assert (sockets(path), registrations(path)) == ([], 0)
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_a_closed_store_closes_its_boxes(self, path: str) -> None:
        store = open_store(path, durability="none")
        before = len(os.listdir("/proc/self/fd"))
        subscription = store.subscribe()
        subscription.add([b"key"])
        store.close()
        assert (subscription.fileno(), sockets(path), registrations(path)) == (-1, [], 0)
        assert len(os.listdir("/proc/self/fd")) <= before


class TestThreads:
    """Threads that share a subscription, and signal handlers."""

    def test_a_change_during_the_look_for_the_first_values_is_received(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = vars(subscription)["_look"]

        def look_before_a_change(keys: list[bytes]) -> object:
            found = look(keys)
            store.set(b"key", b"done")
            return found

        monkeypatch.setattr(subscription, "_look", look_before_a_change)
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.drain() == {b"key"}

    def test_threads_that_add_first_at_once_share_one_box(self, store: LMDBStore, subscription: Subscription) -> None:
        barrier = threading.Barrier(20)

        def add(number: int) -> None:
            barrier.wait()
            subscription.add([b"%d" % number])

        with threads(20, add):
            pass
        assert sockets(store.options.path) == ["0"]
        store.update(lambda txn: [txn.set(b"%d" % number, b"done") for number in range(20)])
        assert subscription.drain() == {b"%d" % number for number in range(20)}

    def test_a_thread_that_adds_a_key_to_a_lost_box_wakes_the_one_that_reads(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        received = []
        subscription.add([b"key"])
        with threads(1, lambda _: received.append(subscription.receive(FOREVER))):
            time.sleep(0.01)
            os.unlink(store.options.path + "-wake/0")
            subscription._verify_at = 0.0
            subscription.add([b"other"])
        assert received == [None]
        store.set(b"key", b"done")
        until(lambda: is_readable(subscription))
        assert subscription.receive(0) in ({b"key": b"done"}, None)

    def test_an_exception_while_messages_are_read_makes_the_reader_look_at_everything(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription.add([b"key"])
        store.set(b"key", b"done")

        def interrupted(marks: Marks, box: int) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(Marks, "has_lost", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subscription.drain()
        monkeypatch.undo()
        assert subscription.drain() is None
        assert subscription.drain() == set()

    @pytest.mark.parametrize("step", ["mark", "unmark"])
    def test_a_signal_handler_may_follow_the_same_key_at_any_moment(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """Here: before each write of a mark, while the interrupted thread adds or removes the key."""
        subscription.add([b"another"])
        mark, depth = Marks.mark, 0

        def interrupted(marks: Marks, box: int, row: int, flags: int) -> None:
            nonlocal depth
            if not depth:
                depth = 1
                subscription.add([b"key"], every_change=True)
                depth = 0
            mark(marks, box, row, flags)

        if step == "mark":
            monkeypatch.setattr(Marks, "mark", interrupted)
            subscription.add([b"key"])
        else:
            subscription.add([b"key"])
            monkeypatch.setattr(Marks, "mark", interrupted)
            subscription.remove([b"key"])
        monkeypatch.undo()
        store.set(b"key", b"...", interim=True)
        assert subscription.drain() == {b"key"}

    def test_a_wait_leaves_nothing_behind(self, store: LMDBStore, hub: ThreadHub) -> None:
        keys = [b"%d" % number for number in range(100)]
        with threads(1, lambda _: wait_for(hub, keys)):
            until(lambda: len(followed(hub.subscription)) == 100)
            for key in keys:
                store.set(key, b"done")
        hub._unsubscribe()
        assert (hub._followers, followed(hub.subscription), registrations(store.options.path)) == ({}, set(), 0)


class TestSharedRows:
    """Two keys that writers cannot tell from each other by their marks."""

    def test_a_message_about_the_other_key_is_ignored(self, store: LMDBStore, subscription: Subscription) -> None:
        key, other = keys_with_the_same_rows()
        subscription.add([key])
        store.set(other, b"done")
        assert is_readable(subscription)
        assert subscription.drain() == set()

    def test_an_interim_value_is_ignored_if_it_was_asked_for_of_the_other_key(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        key, other = keys_with_the_same_rows()
        subscription.add([key])
        subscription.add([other], every_change=True)
        store.set(key, b"...", interim=True)
        assert subscription.drain() == set()
        store.set(other, b"...", interim=True)
        assert subscription.drain() == {other}

    def test_removing_one_keeps_the_other(self, store: LMDBStore, subscription: Subscription) -> None:
        key, other = keys_with_the_same_rows()
        subscription.add([key])
        subscription.add([other], every_change=True)
        subscription.remove([other])
        store.set(key, b"...", interim=True)
        assert not is_readable(subscription)
        store.set(key, b"done")
        assert subscription.drain() == {key}
        subscription.remove([key])
        assert registrations(store.options.path) == 0


class TestFullDisks:
    """Where marks cannot be written, a waiter polls."""

    @pytest.mark.parametrize("step", ["posix_fallocate", "pwrite"])
    def test_without_room_only_the_values_are_returned(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, step, full)
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.fileno() == -1
        monkeypatch.undo()
        subscription._verify_at = store._notifier._verify_at = 0.0  # as if a second had passed
        subscription.add([b"other"])
        assert subscription.receive(0) is None
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_a_disk_that_is_full_later_ends_the_subscription_until_there_is_room(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        subscription.add([b"key"])
        monkeypatch.setattr(os, "pwrite", full)
        subscription.add([b"other"])
        assert subscription.receive(0) is None
        assert subscription.fileno() == -1


@pytest.mark.parametrize("mend", [lambda store: store.set(b"key", b"done"), lambda store: store.delete(b"key")])
def test_repairing_a_damaged_record_is_a_change(
    store: LMDBStore, subscription: Subscription, mend: Callable[[LMDBStore], object]
) -> None:
    store.set(b"key", b"...")
    subscription.add([b"key"])
    store._environment.write(lambda raw: raw.put(b"kkey", b"rubbish of some length, longer than a head"))
    mend(store)
    assert subscription.drain() == {b"key"}
    assert store.check() == []
