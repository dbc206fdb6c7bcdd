"""Threads that wait at one hub: nobody is missed, whoever reads, leaves, fails, forks or closes."""

import math
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.backends import open_backend
from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Store
from lmdbresults.store.lmdb.notify.sockets import WakeFolder
from lmdbresults.store.subscriptions import Hub, Listener
from lmdbresults.testing import MemoryStore
from tests.support.processes import FORKS_WITH_THREADS, in_child
from tests.support.waits import FOREVER, is_absent, threads, until, wait_for

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(30)]


@pytest.mark.usefixtures("no_second_look")
class TestHub:
    """Many threads, one subscription, and nobody who looks just in case."""

    @pytest.mark.parametrize("kind", ["same", "different"])
    @pytest.mark.parametrize("make", [lambda path: open_store(path, durability="none"), lambda path: MemoryStore()])
    def test_fifty_threads_are_all_woken(self, path: str, make: Callable[[str], Store], kind: str) -> None:
        with make(path) as store:
            hub = Hub(store)

            def keys_of(number: int) -> list[bytes]:
                return [b"%d/%d" % (0 if kind == "same" else number, turn) for turn in range(4)]

            with threads(50, lambda number: wait_for(hub, keys_of(number))):
                for key in sorted({key for number in range(50) for key in keys_of(number)}, key=lambda key: key[-1:]):
                    store.set(key, b"done")
            hub.close()

    def test_when_the_reader_leaves_another_takes_over(self, store: LMDBStore, hub: Hub) -> None:
        keys = [b"%d" % number for number in range(10)]
        readers = []
        with threads(10, lambda number: wait_for(hub, [keys[number]])):
            until(lambda: len(hub._others) == 10 and len(hub.subscription._registered) == 10)
            for key in keys:
                until(lambda: hub.reader)
                readers.append(hub.reader)
                store.set(key, b"done")

    def test_news_that_arrive_before_the_wait_end_it(self, store: LMDBStore, hub: Hub) -> None:
        with Listener(hub) as listener:
            assert listener.listen([b"key"], is_absent) == []
            store.set(b"key", b"done")
            assert listener.wait(math.inf) == {b"key"}

    def test_waiting_without_an_end_is_no_error_where_nothing_can_be_read(self, hub: Hub) -> None:
        awake, over = threading.Event(), threading.Event()
        with threads(1, lambda _: hub.wait(awake, over.is_set, math.inf)):
            until(lambda: hub.reader is awake)
            over.set()
            hub.wake(awake)

    def test_an_exception_in_the_reader_loses_nobodys_news(
        self, store: LMDBStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive = hub.subscription.receive
        raised = threading.Event()

        def receive_and_raise(timeout: float) -> Any:
            receive(timeout)
            if not raised.is_set():
                raised.set()
                raise InterruptedError
            return {}

        def wait(number: int) -> None:
            try:
                wait_for(hub, [b"key"])
            except InterruptedError:
                wait_for(hub, [b"key"])

        monkeypatch.setattr(hub.subscription, "receive", receive_and_raise)
        with threads(5, wait):
            until(lambda: len(hub._others) == 5)
            until(lambda: len(hub._listeners.get(b"key", ())) == 5)
            store.set(b"key", b"done")
        assert raised.is_set()
        assert hub.reader is None

    def test_who_comes_in_between_is_told_though_forgetting_fails(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = Listener(hub), Listener(hub)
        first.listen([b"key"], is_absent)

        def forget(keys: list[bytes]) -> None:
            hub.add(second, keys)
            raise LookupError

        monkeypatch.setattr(hub.subscription, "remove", forget)
        with pytest.raises(LookupError):
            first.close()
        monkeypatch.undo()
        assert second.has_news

    def test_a_signal_handler_may_wait_while_its_thread_reads(self, store: LMDBStore, hub: Hub) -> None:
        """It reads the news of the thread that it has interrupted, which is blocked and has to look up."""
        seen: list[object] = []

        def handler(number: int, frame: object) -> None:
            assert hub.reader is not None
            with Listener(hub) as inner:
                inner.listen([b"inner"], is_absent)
                store.set(b"outer", b"done")
                store.set(b"inner", b"done")
                while b"inner" not in (inner.wait(FOREVER) or ()):
                    pass
            seen.append(hub._reading._is_owned())

        def interrupt() -> None:
            until(lambda: hub.reader)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        former = signal.signal(signal.SIGUSR1, handler)
        try:
            with threads(1, lambda _: interrupt()):
                wait_for(hub, [b"outer"])
        finally:
            signal.signal(signal.SIGUSR1, former)
        assert seen == [True]
        assert (hub.reader, hub._reading._is_owned()) == (None, False)

    @pytest.mark.parametrize("what", ["hub", "store"])
    def test_closing_wakes_everybody(self, path: str, what: str) -> None:
        store = open_store(path, durability="none")
        hub = Hub(store)
        closed = []

        def wait(number: int) -> None:
            with Listener(hub) as listener, suppress(StoreClosed):
                listener.listen([b"%d" % number], is_absent)
                listener.wait(FOREVER)
                store.get(b"key")
            closed.append(number)

        with threads(5, wait):
            until(lambda: len(hub._others) == 5)
            {"hub": hub, "store": store}[what].close()
        assert len(closed) == 5
        store.close()
        hub.close()
        assert not Path(path + "-wake").exists()

    def test_threads_that_ask_a_backend_at_once_get_the_same_hub(self, store: LMDBStore) -> None:
        backend, hubs, barrier = open_backend(store.options.path, durability="none"), [], threading.Barrier(20)

        def ask(number: int) -> None:
            barrier.wait()
            hubs.append(backend.hub)

        with threads(20, ask):
            pass
        assert len(set(hubs)) == 1
        backend.process_cleanup()


class TestSecondLook:
    """Whoever waits looks again after a while, in case that a message was lost."""

    def test_a_lost_message_is_made_up_for(self, store: LMDBStore, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WakeFolder, "send", lambda folder, news: None)
        with Listener(hub) as listener:
            listener.listen([b"key"], is_absent)
            while listener.wait(0.01) is not None:
                listener.listen([], is_absent)
            store.set(b"key", b"done")
            while listener.wait(0.01) is not None:
                assert listener.listen([], is_absent) == []  # asking for nothing is no look
            assert listener.listen([b"key"], is_absent) == [b"key"]


class TestForks:
    """Parent and child each wait for themselves."""

    @pytest.mark.usefixtures("no_second_look")
    def test_a_child_makes_its_own_socket_and_leaves_the_parents(self, store: LMDBStore, hub: Hub) -> None:
        listener = Listener(hub)
        listener.listen([b"key"], is_absent)

        def work() -> tuple[bool, int]:
            before = hub.subscription.fileno()
            is_all = listener.wait(FOREVER) is None
            with threads(1, lambda _: wait_for(hub, [b"child"])):
                until(lambda: hub.subscription._registered)
                store.set(b"child", b"done")
            hub.close()
            return is_all, before

        assert in_child(work) == (True, -1)
        store.set(b"key", b"done")
        assert listener.wait(FOREVER) == {b"key"}
        listener.close()

    def test_what_a_child_inherits_of_a_listener_is_replaced_before_anything_is_told(
        self, store: LMDBStore, hub: Hub
    ) -> None:
        listener = Listener(hub)
        listener.listen([b"key"], is_absent)
        inherited = threading.Event()
        listener._awake.add(inherited)
        listener._news.append(b"of the parent")

        def work() -> tuple[bool, int, bool]:
            listener.listen([b"other"], is_absent)
            return inherited in listener._awake, len(listener._news), listener.wait(0) is None

        assert in_child(work) == (False, 0, True)
        listener._awake.clear()
        listener.close()
