"""Threads that wait at one hub: none is missed, whichever reads, leaves, fails, forks or closes."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreClosed
from lmdbresults.store import following, thread_hub
from lmdbresults.store.base import Store
from lmdbresults.store.lmdb.notify.notifier import Notifier
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from lmdbresults.testing import MemoryStore
from tests.support.processes import FORKS_WITH_THREADS, in_child
from tests.support.waits import FOREVER, sockets, threads, until, wait_for

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], Callable[[], None]]]:
    """Set what a signal handler does; returns a function that has the signal come to the main thread."""
    former = signal.getsignal(signal.SIGUSR1)

    def handle(work: Callable[[], object]) -> Callable[[], None]:
        signal.signal(signal.SIGUSR1, lambda number, frame: work() and None)
        return lambda: os.kill(os.getpid(), signal.SIGUSR1)

    yield handle
    signal.signal(signal.SIGUSR1, former)


@pytest.mark.usefixtures("no_second_look")
class TestReading:
    """Many threads, one subscription, and no second look."""

    @pytest.mark.parametrize("kind", ["same", "different"])
    @pytest.mark.parametrize("make", [lambda path: open_store(path, durability="none"), lambda path: MemoryStore()])
    def test_fifty_threads_are_all_woken(self, path: str, make: Callable[[str], Store], kind: str) -> None:
        with make(path) as store:
            hub = ThreadHub(store, lambda: None)

            def keys_of(number: int) -> list[bytes]:
                return [b"%d/%d" % (0 if kind == "same" else number, turn) for turn in range(4)]

            with threads(50, lambda number: wait_for(hub, keys_of(number))):
                for key in sorted({key for number in range(50) for key in keys_of(number)}, key=lambda key: key[-1:]):
                    store.set(key, b"done")
            assert (hub._waiting, hub._followers, hub._reader) == (set(), {}, None)
            hub.close()

    def test_when_the_reader_leaves_another_takes_over(self, store: LMDBStore, hub: ThreadHub) -> None:
        keys = [b"%d" % number for number in range(10)]
        readers = set()
        with threads(10, lambda number: wait_for(hub, [keys[number]])):
            until(lambda: len(hub._waiting) == 10)
            while hub._waiting:
                until(lambda: hub._reader or not hub._waiting)
                reader = hub._reader
                if reader is not None and reader.keys:
                    readers.add(reader)
                    store.set(min(reader.keys), b"done")
                    until(lambda reader=reader: hub._reader is not reader)
        assert len(readers) == 10

    def test_news_that_comes_before_a_thread_sleeps_is_not_missed(self, store: LMDBStore, hub: ThreadHub) -> None:
        with ThreadWait(hub, [b"key"]) as wait:
            assert next(wait) == {b"key": None}
            store.set(b"key", b"done")
            assert next(wait) == {b"key": b"done"}

    def test_a_message_that_the_reader_received_and_did_not_tell_is_made_up_for(
        self, store: LMDBStore, hub: ThreadHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive = hub.subscription.receive
        raised = threading.Event()

        def receive_and_raise(timeout: float) -> Any:
            received = receive(timeout)
            if received and not raised.is_set():
                raised.set()
                raise InterruptedError
            return received

        def wait(number: int) -> None:
            try:
                wait_for(hub, [b"key"])
            except InterruptedError:
                wait_for(hub, [b"key"])

        monkeypatch.setattr(hub.subscription, "receive", receive_and_raise)
        with threads(5, wait):
            until(lambda: len(hub._waiting) == 5)
            store.set(b"key", b"done")
        assert raised.is_set()
        assert hub._reader is None

    def test_a_thread_that_follows_a_key_gets_messages_while_another_follows_nothing(
        self, store: LMDBStore, hub: ThreadHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reader has nothing to read then, and sleeps; by the first key that is followed there is something."""
        monkeypatch.setattr(following, "FIRST_PAUSE", FOREVER)
        monkeypatch.setattr(following, "CHORES_EVERY", FOREVER)
        with threads(1, lambda _: hub.wait(ThreadWait(hub, ()), time.monotonic() + FOREVER)):
            until(lambda: hub._dozing)
            with threads(1, lambda _: wait_for(hub, [b"key"])):
                until(lambda: hub.subscription.fileno() >= 0)
                store.set(b"key", b"done")
            hub.interrupt()


@pytest.mark.usefixtures("no_second_look")
class TestSignals:
    """A signal handler may wait, close or raise while its thread waits."""

    def test_a_handler_that_waits_reads_the_news_of_the_thread_that_it_has_interrupted(
        self, store: LMDBStore, hub: ThreadHub, on_signal: Any
    ) -> None:
        owned: list[bool] = []

        def handle() -> None:
            with ThreadWait(hub, [b"inner"]) as inner:
                next(inner)
                store.set(b"outer", b"done")
                store.set(b"inner", b"done")
                while b"inner" not in next(inner):
                    pass
            owned.append(hub._reading._is_owned())  # type: ignore[attr-defined]

        def interrupt(send: Callable[[], None]) -> None:
            until(lambda: hub._reader)
            send()

        send = on_signal(handle)
        with threads(1, lambda _: interrupt(send)):
            wait_for(hub, [b"outer"])
        assert owned == [True]
        assert (hub._reader, hub._reading._is_owned()) == (None, False)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("role", ["reader", "sleeper"])
    def test_a_handler_that_raises_ends_the_wait_and_leaves_nothing_held(
        self, store: LMDBStore, hub: ThreadHub, on_signal: Any, role: str
    ) -> None:
        class Stopped(Exception):
            pass

        def stop() -> None:
            raise Stopped

        def interrupt(send: Callable[[], None], waiting: int) -> None:
            until(lambda: len(hub._waiting) == waiting and hub._reader)
            send()

        send, others = on_signal(stop), int(role == "sleeper")
        with threads(others, lambda _: wait_for(hub, [b"other"])):
            until(lambda: not others or hub._reader)
            with threads(1, lambda _: interrupt(send, others + 1)), pytest.raises(Stopped):
                wait_for(hub, [b"key"])
            assert list(hub._followers) == [b"other"] * others
            store.set(b"other", b"done")
        assert hub._reading.acquire(blocking=False)
        hub._reading.release()

    def test_a_lock_that_an_exception_has_left_held_is_released_by_the_next_wait(
        self, store: LMDBStore, hub: ThreadHub
    ) -> None:
        hub._reading.acquire()  # as if a signal had come between two instructions of the release
        store.set(b"key", b"done")
        while hub._reading._is_owned():  # type: ignore[attr-defined]
            with ThreadWait(hub, [b"key"], time.monotonic() + 0.01) as wait:  # it may be over before it has begun
                list(wait)

    def test_a_sleeper_that_was_not_woken_takes_over_after_a_while(
        self, store: LMDBStore, hub: ThreadHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(thread_hub, "_LONGEST_SLEEP", 0.01)
        hub._reader = ThreadWait(hub, ())  # which has left by an exception, and woken no thread
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: hub._followers)
            store.set(b"key", b"done")


class TestChores:
    """What waiting threads do besides, as no thread of ours exists."""

    def test_the_reader_does_the_chores_about_once_a_second(
        self, store: LMDBStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(following, "CHORES_EVERY", 0.001)
        chores: list[int] = []
        hub = ThreadHub(store, lambda: chores.append(1))
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: len(chores) > 5)
            store.set(b"key", b"done")
        hub.close()

    @pytest.mark.usefixtures("no_second_look")
    def test_threads_that_only_sleep_are_not_woken_for_chores(self, store: LMDBStore) -> None:
        chores: list[int] = []
        hub = ThreadHub(store, lambda: chores.append(threading.get_ident()))
        with threads(20, lambda number: wait_for(hub, [b"%d" % number])):
            until(lambda: len(hub._waiting) == 20)
            assert len(chores) < 2 * 20
            for number in range(20):
                store.set(b"%d" % number, b"done")
        hub.close()

    def test_interrupting_makes_the_reader_leave_and_come_again(self, store: LMDBStore) -> None:
        chores: list[int] = []
        hub = ThreadHub(store, lambda: chores.append(1))
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: hub._reader)
            before = len(chores)
            hub.interrupt()
            until(lambda: len(chores) > before)
            store.set(b"key", b"done")
        hub.close()


class TestEnds:
    """Waiting ends."""

    @pytest.mark.parametrize("what", ["hub", "store"])
    def test_closing_ends_every_wait(self, path: str, what: str) -> None:
        store = open_store(path, durability="none")
        hub = ThreadHub(store, lambda: None)
        closed = []

        def wait(number: int) -> None:
            with pytest.raises(StoreClosed):
                wait_for(hub, [b"%d" % number])
            closed.append(number)

        with threads(5, wait):
            until(lambda: len(hub._waiting) == 5)
            {"hub": hub, "store": store}[what].close()
        assert len(closed) == 5
        store.close()
        hub.close()
        assert sockets(path) == []

    @pytest.mark.usefixtures("no_second_look")
    def test_ten_thousand_waits_leave_nothing(self, store: LMDBStore, hub: ThreadHub) -> None:
        for number in range(10_000):
            with ThreadWait(hub, [b"%d" % number]) as wait:
                next(wait)
        assert (hub._followers, hub._delivered, hub._waiting) == ({}, {}, set())

    def test_on_interval_is_called_by_every_thread(self, store: LMDBStore, hub: ThreadHub) -> None:
        calls = [0, 0]

        def wait(number: int) -> None:
            def on_interval() -> None:
                calls[number] += 1

            with ThreadWait(hub, [b"key"], math.inf, interval=0.001, on_interval=on_interval) as wait:
                for values in wait:
                    if values.get(b"key"):
                        return

        with threads(2, wait):
            until(lambda: min(calls) > 5)
            store.set(b"key", b"done")


class TestSecondLook:
    """A lost message makes a wait slow, and does not make it hang."""

    @pytest.mark.parametrize("count", [1, 5])
    def test_the_reader_makes_up_for_all(
        self, store: LMDBStore, hub: ThreadHub, monkeypatch: pytest.MonkeyPatch, count: int
    ) -> None:
        monkeypatch.setattr(following, "LOOK_EVERY", 0.01)
        monkeypatch.setattr(Notifier, "send", lambda notifier, changes, moment: None)
        with threads(count, lambda number: wait_for(hub, [b"%d" % number])):
            until(lambda: len(hub._waiting) == count)
            for number in range(count):
                store.set(b"%d" % number, b"done")


class TestForks:
    """Parent and child each wait for themselves."""

    @pytest.mark.usefixtures("no_second_look")
    def test_a_child_makes_its_own_socket_and_leaves_the_parents(self, store: LMDBStore, hub: ThreadHub) -> None:
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)

            def work() -> int:
                before = hub.subscription.fileno()
                with threads(1, lambda _: wait_for(hub, [b"child"])):
                    until(lambda: hub._followers)
                    store.set(b"child", b"done")
                hub.close()
                return before

            assert in_child(work) == -1
            store.set(b"key", b"done")
            assert next(wait) == {b"key": b"done"}

    @pytest.mark.usefixtures("no_second_look")
    def test_a_wait_that_was_begun_in_the_parent_goes_on_in_the_child(self, store: LMDBStore, hub: ThreadHub) -> None:
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)

            def work() -> dict[bytes, bytes | None]:
                assert hub._followers == {}
                assert next(wait) == {b"key": None}  # it follows the key again
                store.set(b"key", b"done")
                return dict(next(wait))

            assert in_child(work) == {b"key": b"done"}
