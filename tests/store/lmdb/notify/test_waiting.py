"""Waiting in an LMDBStore: the sockets beside the file, what is registered, and what goes wrong."""

import errno
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify.sockets import WakeFolder
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from lmdbresults.testing import FakeClock
from tests.support.processes import FORKS_WITH_THREADS, Child, child
from tests.support.waits import folder_of, is_readable, registrations, threads, until, wait_for

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(30)]


class TestSockets:
    """Where sockets lie, and who may reach them."""

    @pytest.mark.parametrize(
        ("mode", "folder_mode", "socket_mode"), [(0o600, 0o700, 0o600), (0o660, 0o770, 0o660), (0o640, 0o750, 0o640)]
    )
    def test_they_are_as_private_as_the_file(self, path: str, mode: int, folder_mode: int, socket_mode: int) -> None:
        with open_store(path, durability="none", mode=mode) as store:
            subscription = store.subscribe()
            subscription.add([b"key"])
            folder = folder_of(store)
            (name,) = folder.iterdir()
            assert stat.S_IMODE(folder.stat().st_mode) == folder_mode
            assert stat.S_ISSOCK(name.stat().st_mode)
            assert stat.S_IMODE(name.stat().st_mode) == socket_mode
            subscription.close()
            assert not folder.exists()

    def test_nothing_is_made_before_somebody_waits(self, store: LMDBStore, subscription: Subscription) -> None:
        store.set(b"key", b"done")
        assert subscription.fileno() == -1
        assert not folder_of(store).exists()

    def test_the_store_takes_its_sockets_along_when_it_is_closed(self, path: str) -> None:
        store = open_store(path, durability="none")
        subscription = store.subscribe()
        subscription.add([b"key"])
        store.close()
        assert not Path(path + "-wake").exists()
        with open_store(path, durability="none") as again:
            assert registrations(again) == 0
            assert again.check() == []
        assert subscription.fileno() == -1

    @pytest.mark.usefixtures("no_second_look")
    def test_a_path_may_be_longer_than_an_address(self, tmp_path: Path) -> None:
        folder = tmp_path / ("long" * 40)
        folder.mkdir()
        with open_store(folder / "results.lmdb", durability="none") as store:
            hub = ThreadHub(store, lambda: None)
            with threads(1, lambda _: wait_for(hub, [b"key"])):
                until(lambda: hub.subscription.fileno() >= 0)
                hub.subscription.ring()
                store.set(b"key", b"done")
            hub.close()
            assert not folder_of(store).exists()

    @pytest.mark.parametrize("obstacle", ["file", "link"])
    def test_without_sockets_one_looks_again_and_again(self, store: LMDBStore, hub: ThreadHub, obstacle: str) -> None:
        folder = folder_of(store)
        elsewhere = folder.with_name("elsewhere")
        elsewhere.mkdir()
        dead = elsewhere / ("0" * 16)
        dead.touch()
        if obstacle == "file":
            folder.touch()
        else:
            folder.symlink_to(elsewhere)
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: hub._followers)
            store.set(b"key", b"done")
        assert hub.subscription.fileno() == -1
        store.sweep()
        assert folder.exists()
        assert dead.exists()

    def test_what_is_no_socket_is_not_removed(self, store: LMDBStore) -> None:
        folder = folder_of(store)
        folder.mkdir(mode=0o700)
        foreign = folder / ("0" * 16)
        foreign.write_text("a file of somebody")
        store.sweep()
        WakeFolder(store.options.path, 0o600).unbind(bytes(8))
        assert foreign.exists()

    def test_a_folder_that_is_removed_while_a_socket_is_made_is_made_again(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make, removals = WakeFolder._make, 3

        def make_and_lose(folder: WakeFolder) -> None:
            nonlocal removals
            make(folder)
            if removals:
                removals -= 1
                os.rmdir(folder.path)

        monkeypatch.setattr(WakeFolder, "_make", make_and_lose)
        subscription.add([b"key"])
        assert subscription.fileno() >= 0

    @pytest.mark.usefixtures("no_second_look")
    def test_a_socket_whose_name_is_gone_is_replaced_when_somebody_registers(
        self, store: LMDBStore, hub: ThreadHub
    ) -> None:
        with threads(1, lambda _: wait_for(hub, [b"first"])):
            until(lambda: hub.subscription.fileno() >= 0 and hub._reader)
            for name in folder_of(store).iterdir():
                name.unlink()
            folder_of(store).rmdir()
            with threads(1, lambda _: wait_for(hub, [b"second"])):
                until(lambda: {b"first", b"second"} <= hub.subscription._registered.keys())
                store.set(b"second", b"done")
                store.set(b"first", b"done")

    def test_two_threads_that_register_first_make_one_socket(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        barrier = threading.Barrier(20)

        def register(number: int) -> None:
            barrier.wait()
            subscription.add([b"%d" % number])

        with threads(20, register):
            pass
        assert len(list(folder_of(store).iterdir())) == 1
        for number in range(20):
            store.set(b"%d" % number, b"done")
        assert subscription.drain() in (None, {b"%d" % number for number in range(20)})
        assert registrations(store) == 0


class TestOverflow:
    """Queues take few messages, and writers never wait."""

    def test_none_of_a_thousand_changes_is_missed_while_the_reader_sleeps(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        keys = [b"%d" % number for number in range(1000)]
        subscription.add(keys)
        for key in keys:
            store.set(key, b"done")
        assert subscription.drain() is None
        assert sorted(subscription.add(keys)) == sorted(keys)
        assert subscription.drain() == set()
        assert len(list(folder_of(store).iterdir())) == 1

    def test_it_is_noticed_though_what_was_read_is_of_no_interest(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        keys = [b"%d" % number for number in range(100)]
        subscription.add([*keys, b"key"])
        for key in keys:
            store.set(key, b"done")
        store.set(b"key", b"done")
        subscription.remove(keys)
        assert subscription.drain() is None
        assert subscription.add([b"key"]) == {b"key": b"done"}

    def test_what_some_have_not_read_keeps_nothing_from_others(self, store: LMDBStore) -> None:
        subscriptions = [store.subscribe() for _ in range(60)]
        for number, subscription in enumerate(subscriptions):
            subscription.add([b"%d/%d" % (number, turn) for turn in range(12)])
        for turn in range(12):
            for number in range(60):
                store.set(b"%d/%d" % (number, turn), b"done")
        assert [number for number, subscription in enumerate(subscriptions) if not is_readable(subscription)] == []
        assert {subscription.drain() is None for subscription in subscriptions} == {True}
        for subscription in subscriptions:
            subscription.close()
        assert not folder_of(store).exists()

    def test_a_box_that_dies_meanwhile_leaves_no_marker(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription.add([b"key"])
        tries = []

        def send(*args: Any) -> int:
            tries.append(args)
            if len(tries) == 3:
                raise ConnectionRefusedError
            raise BlockingIOError(errno.EAGAIN, "the queue is full")

        monkeypatch.setattr("lmdbresults.store.lmdb.notify.sockets._Socket.send", send)
        store.set(b"key", b"done")
        assert len(tries) == 3
        assert not folder_of(store).exists()


class TestUsedUp:
    """What is taken for registered is so, whatever happens at the same time."""

    @pytest.mark.parametrize("event", ["message", "overflow", "forgotten"])
    def test_a_key_used_up_while_it_is_registered_can_be_registered_again(
        self, store: LMDBStore, subscription: Subscription, event: str
    ) -> None:
        watch = subscription._registrations.watch

        def watch_then(keys: list[bytes], *args: Any) -> list[bytes]:
            ready = watch(keys, *args)
            if event == "forgotten":
                subscription._registered[b"key"] = False  # another thread has registered it, too
                subscription.remove(keys)
            else:
                store.set(b"key", b"done")
                if event == "overflow":
                    subscription._folder.has_overflown = lambda box: True
                subscription.drain()
                store.delete(b"key")
            return ready

        subscription._registrations.watch = watch_then
        subscription.add([b"key"])
        del subscription._registrations.watch
        vars(subscription._folder).pop("has_overflown", None)
        assert set(subscription.add([b"key"]).values()) == {None}
        assert subscription._in_progress == {}
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_an_exception_while_messages_are_read_makes_all_register_again(
        self, store: LMDBStore, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription.add([b"key", b"other"])
        store.set(b"key", b"done")

        def interrupted(box: bytes) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(subscription._folder, "has_overflown", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subscription.drain()
        monkeypatch.undo()
        assert subscription.add([b"key", b"other"]) == {b"key": b"done", b"other": None}

    def test_a_wait_leaves_nothing_behind(self, store: LMDBStore, hub: ThreadHub) -> None:
        keys = [b"%d" % number for number in range(100)]
        with threads(1, lambda _: wait_for(hub, keys)):
            until(lambda: len(hub.subscription._registered) == 100)
            for key in keys:
                store.set(key, b"done")
        assert (hub._followers, hub.subscription._keys, hub.subscription._registered) == ({}, {}, {})
        assert registrations(store) == 0


def wait_until_killed(path: str, clock: FakeClock) -> None:
    with open_store(path, durability="none", clock=clock) as store:
        hub = ThreadHub(store, lambda: None)
        store.set(b"present", b"...")
        hub.subscription.add([b"absent", b"present"])
        store.set(b"waits", b"")
        wait_for(hub, [b"never"])


class TestDeath:
    """What is left of who was killed, and that it does no harm."""

    def test_a_sweep_takes_away_what_the_dead_leave_and_nothing_of_the_living(
        self, store: LMDBStore, subscription: Subscription, clock: FakeClock
    ) -> None:
        subscription.add([b"absent", b"living"])
        with child(wait_until_killed, store.options.path, clock) as process:
            until(lambda: store.get(b"waits") is not None)
            until(lambda: registrations(store) == 5)
            process.kill()
        assert len(list(folder_of(store).iterdir())) == 2
        store.sweep()
        assert len(list(folder_of(store).iterdir())) == 1
        assert registrations(store) == 2
        assert store.check() == []
        store.set(b"absent", b"done")
        store.set(b"living", b"done")
        assert subscription.drain() == {b"absent", b"living"}

    def test_a_message_to_the_dead_takes_their_socket_away(self, store: LMDBStore, clock: FakeClock) -> None:
        with child(wait_until_killed, store.options.path, clock) as process:
            until(lambda: store.get(b"waits") is not None)
            process.kill()
        store.set(b"absent", b"done")
        assert not folder_of(store).exists()

    def test_a_wait_goes_on_when_the_writer_dies_before_it_sends(
        self, path: str, store: LMDBStore, hub: ThreadHub
    ) -> None:
        def write_and_die() -> None:
            WakeFolder.send = lambda folder, news: os.kill(os.getpid(), signal.SIGKILL)
            store.set(b"key", b"done")

        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            writer = Child(write_and_die)
            writer.wait()
            writer.close()
            while not next(wait):
                pass


class TestVacancy:
    """What is waited for and not there has a record without a value, for an hour."""

    def test_it_expires_wakes_and_leaves_nothing(
        self, store: LMDBStore, subscription: Subscription, clock: FakeClock
    ) -> None:
        keys = [b"key", b"k" * 2000]
        entries = store.stats().entries
        subscription.add(keys)
        assert store.check() == []
        clock.advance(3599.0)
        assert store.sweep() == 0
        assert subscription.drain() == set()
        clock.advance(1.0)
        assert store.sweep() == 0
        assert subscription.drain() == set(keys)
        assert store.stats().entries == entries
        assert store.check() == []
        assert set(subscription.add(keys).values()) == {None}

    def test_it_goes_with_the_last_who_waits(self, store: LMDBStore, subscription: Subscription) -> None:
        entries = store.stats().entries
        other = store.subscribe()
        subscription.add([b"key"])
        other.add([b"key"])
        other.close()
        assert store.stats().entries > entries
        subscription.remove([b"key"])
        assert store.stats().entries == entries
