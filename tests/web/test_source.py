"""How often the store is read, and how open pages learn that it has changed."""

import asyncio
import threading

import pytest

from lmdbresults import LMDBStore
from lmdbresults.monitoring import Monitor, changes
from lmdbresults.web import live, source
from lmdbresults.web.live import Live
from lmdbresults.web.source import Fresh, Source


class Figure:
    """Counts how often it was computed, and how often at once."""

    def __init__(self) -> None:
        self.count = self._running = self.most = 0
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, monitor: Monitor) -> int:
        self._running += 1
        self.most = max(self.most, self._running)
        assert self.may_end.wait(240)
        self._running -= 1
        self.count += 1
        return self.count


@pytest.fixture
def figure() -> Figure:
    return Figure()


def test_a_figure_is_computed_once_until_something_has_changed(
    store: LMDBStore, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_SHORTEST", 0.0)
    monkeypatch.setattr(source, "_SHARE", 1e9)
    monkeypatch.setattr(source, "_SLOW", 3600.0)
    monkeypatch.setattr(source, "_LONGEST", 3600.0)

    async def ask() -> None:
        fresh = Fresh(Source(store), figure)
        assert [await fresh.get() for _ in range(3)] == [1, 1, 1]
        store.set(b"key", b"value")
        assert [await fresh.get() for _ in range(3)] == [2, 2, 2]

    asyncio.run(ask())


def test_many_visitors_at_once_cost_as_much_as_one(store: LMDBStore, figure: Figure) -> None:
    async def ask() -> None:
        fresh = Fresh(Source(store), figure)
        assert await asyncio.gather(*(fresh.get() for _ in range(20))) == [1] * 20

    asyncio.run(ask())
    assert figure.most == 1


def test_a_visitor_sees_the_last_figure_while_a_slow_one_is_computed(
    store: LMDBStore, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_SLOW", 0.0)
    monkeypatch.setattr(source, "_SHORTEST", 0.0)
    monkeypatch.setattr(source, "_SHARE", 1e9)

    async def ask() -> None:
        renewed = asyncio.Event()
        fresh = Fresh(Source(store), figure, renewed.set)
        assert await fresh.get() == 1
        store.set(b"key", b"value")
        figure.may_end.clear()
        assert [await fresh.get() for _ in range(3)] == [1, 1, 1]
        assert fresh.is_being_renewed
        figure.may_end.set()
        await asyncio.wait_for(renewed.wait(), 30)
        assert await fresh.get() == 2

    asyncio.run(ask())


@pytest.mark.parametrize("slow", [0.0, 3600.0])
def test_the_last_change_is_shown_though_it_came_soon_after_another(
    store: LMDBStore, figure: Figure, monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    monkeypatch.setattr(source, "_SLOW", slow)
    monkeypatch.setattr(source, "_LONGEST", 3600.0)

    async def ask() -> None:
        renewed = asyncio.Event()
        fresh = Fresh(Source(store), figure, renewed.set)
        await fresh.get()
        is_old = False
        while not is_old:
            count = figure.count
            store.set(b"key", b"value")
            is_old = await fresh.get() == count
        await asyncio.wait_for(renewed.wait(), 60)
        assert await fresh.get() == figure.count == count + 1

    asyncio.run(ask())


def test_open_pages_are_not_told_of_a_figure_that_is_the_same(
    store: LMDBStore, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_SLOW", 0.0), ("_SHORTEST", 0.0), ("_SHARE", 1e9), ("_LONGEST", 3600.0)):
        monkeypatch.setattr(source, name, value)
    told = list[int]()

    async def ask() -> None:
        fresh = Fresh(Source(store), figure, lambda: told.append(figure.count))
        assert [await fresh.get() for _ in range(3)] == [1, 1, 1]
        store.set(b"key", b"value")
        while not told:
            await fresh.get()
        assert [await fresh.get() for _ in range(3)] == [2, 2, 2]

    asyncio.run(ask())
    assert told == [2]


def test_pages_are_told_by_wake_ups_of_writers(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (live, changes):  # a wake-up that is lost hangs
        monkeypatch.setattr(module, "_LOOK_EVERY", 3600.0)

    async def listen() -> None:
        pages = Live(Source(store))
        streams = [pages.stream() for _ in range(3)]
        for stream in streams:
            assert await anext(stream) == b"retry: 2000\n\n"
        for _ in range(3):
            told = [asyncio.ensure_future(anext(stream)) for stream in streams]
            await asyncio.sleep(0)
            while not all(each.done() for each in told):
                store.set(b"key", b"value")
                await asyncio.sleep(0.01)
            assert {each.result() for each in told} == {b"event: changed\ndata:\n\n"}
        for stream in streams:
            await stream.aclose()
        store.set(b"key", b"the thread ends")

    asyncio.run(asyncio.wait_for(listen(), 60))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_died_is_started_again_for_the_next_page(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listen() -> None:
        pages = Live(Source(store))
        with monkeypatch.context() as patches:
            patches.setattr(pages, "_follow", lambda monitor: 1 / 0)
            first = pages.stream()
            await anext(first)
            vars(pages)["_thread"].join(30)
        second = pages.stream()
        await anext(second)
        told = asyncio.ensure_future(anext(second))
        while not told.done():
            store.set(b"key", b"value")
            await asyncio.sleep(0.01)
        assert told.result() == b"event: changed\ndata:\n\n"
        for stream in (first, second):
            await stream.aclose()
        store.set(b"key", b"the thread ends")

    asyncio.run(asyncio.wait_for(listen(), 60))


def test_no_more_pages_are_open_than_the_server_can_tell(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_PAGES", 2)

    async def listen() -> None:
        pages = Live(Source(store))
        streams = [pages.stream() for _ in range(2)]
        for stream in streams:
            await anext(stream)
        assert pages.is_full()
        for stream in streams:
            await stream.aclose()
        assert not pages.is_full()

    asyncio.run(listen())
