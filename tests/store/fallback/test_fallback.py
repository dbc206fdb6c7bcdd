"""Two stores as one: reads look in both, writes go to the new one, waits follow both, chords end once."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.app import App, Request
from lmdbresults.backends import StoreBackend
from lmdbresults.monitoring import Monitor
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.store.chords import Part, PartOutcome
from lmdbresults.store.fallback import FallbackStore
from lmdbresults.store.redis import open_redis
from lmdbresults.testing import FakeClock, MemoryStore
from tests.support.redis_servers import free_port, redis_server


@pytest.fixture
def old(tmp_path: Path) -> Iterator[LMDBStore]:
    with open_store(tmp_path / "old.lmdb", durability="none") as store:
        yield store


@pytest.fixture
def both(tmp_path: Path, old: LMDBStore) -> Iterator[FallbackStore]:
    new = open_store(tmp_path / "new.lmdb", durability="none")
    with FallbackStore(new, open_store(tmp_path / "old.lmdb", durability="none")) as store:
        yield store


def test_reads_look_in_both_and_the_new_one_wins(old: LMDBStore, both: FallbackStore):
    for key in (b"a", b"b"):
        old.set(key, b"old", 100.0)
    both.new.set(b"b", b"new", 5.0)
    both.new.set(b"c", b"new")
    assert both.get(b"a") == b"old"
    assert both.mget([b"a", b"b", b"c", b"d"]) == [b"old", b"new", b"new", None]
    assert both.ttls([b"a", b"b", b"d"]) == [pytest.approx(100, abs=1), pytest.approx(5, abs=1), None]
    found = {b"a": b"old", b"b": b"new", b"c": b"new"}
    assert dict(both.scan()) == dict(both.range()) == found
    assert [key for key, _ in both.range(limit=2)] == [b"a", b"b"]


def test_writes_go_to_the_new_one_deletes_to_both_and_a_success_in_the_old_one_stays(
    old: LMDBStore, both: FallbackStore
):
    old.set(b"a", b"success")
    assert not both.set(b"a", b"failure", keep_prefix=b"success")
    assert not both.add(b"a", b"other")
    both.set(b"b", b"1")
    assert (old.get(b"b"), both.new.get(b"b")) == (None, b"1")
    assert both.delete(b"a")
    assert (old.get(b"a"), both.get(b"a")) == (None, None)


@pytest.mark.parametrize("writer", ["old", "new"])
def test_a_waiter_is_woken_by_writers_to_either(old: LMDBStore, both: FallbackStore, writer: str, no_second_look: None):
    backend, other = backend_over(both), backend_over(old if writer == "old" else both.new)
    thread = Thread(target=lambda: (wait_until_followed(both), other.store_result("x", 1, "SUCCESS")))
    thread.start()
    assert AsyncResult("x", backend).get(timeout=240) == 1
    thread.join()
    backend.waiting.close()
    other.waiting.close()


def wait_until_followed(both: FallbackStore) -> None:
    while not both.old.stats().waiters or not both.new.stats().waiters:
        pass


# -- chords ------------------------------------------------------------------------------------------------------------

RAN: list[Any] = []


def backend_over(store: Any) -> StoreBackend:
    app = App()
    app.task(RAN.append, name="body")
    return StoreBackend(store=store, url="", app=app)


def start(backend: StoreBackend) -> None:
    RAN.clear()
    first, *others = (AsyncResult(each, backend) for each in "abc")
    header = [first, GroupResult("inner", others, backend)]
    backend.apply_chord(("chord", header), backend.app.signature("body").set(task_id="body"))


def part(backend: StoreBackend, index: int) -> None:
    chord = {"task": "body", "options": {"task_id": "body"}, "args": [], "kwargs": {}, "chord_size": 3}
    request = Request(id="abc"[index], group="chord", group_index=index, chord=chord)
    backend.mark_as_done(request.id, index, request)


@pytest.mark.parametrize("opener", ["old", "new"])
@pytest.mark.parametrize("returned_to", ["old new new", "new old new", "new new old", "old old new", "old new old"])
def test_a_chord_whose_parts_return_to_both_stores_ends_once_and_in_its_shape(
    old: LMDBStore, both: FallbackStore, opener: str, returned_to: str
):
    backends = {"old": backend_over(old), "new": backend_over(both)}
    start(backends[opener])
    for index, where in enumerate(returned_to.split()):
        part(backends[where], index)
    for _ in range(2):
        both.chords._look_at = 0.0
        backends["new"].chords.recover(now=True)
    assert RAN == [[0, [1, 2]]]
    part(backends["new"], 1)  # a duplicate
    assert len(RAN) == 1


def test_a_claim_that_a_worker_of_the_old_store_has_left_is_taken_over(old: LMDBStore, both: FallbackStore):
    backend = backend_over(old)
    start(backend)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backend.chords), "_run", lambda *args: 1 / 0)
        for index in range(3):
            with suppress(ZeroDivisionError):
                part(backend, index)
    assert RAN == []
    backend_over(both).chords.recover(now=True)
    assert RAN == [[0, [1, 2]]]


def test_a_chord_that_moves_is_shown_with_the_parts_that_have_returned_to_either(old: LMDBStore, both: FallbackStore):
    monitor = Monitor(both)
    start(backend_over(old))
    assert [(chord.id, chord.returned_ids) for chord in monitor.chords()] == [("chord", [])]
    part(backend_over(old), 0)
    part(backend_over(both), 1)
    assert [(chord.id, chord.size, chord.returned_ids) for chord in monitor.chords()] == [("chord", 3, ["a", "b"])]


@pytest.mark.parametrize("expires", ["before", "after"])
def test_a_chord_that_expires_as_it_is_handed_over_harms_no_part(expires: str):
    """Its head was read, and it expires before or after all the rest is."""
    clock = FakeClock()
    old = MemoryStore(clock=clock)
    both = FallbackStore(MemoryStore(clock=clock), old)
    old.chords.open(b"key", 60.0)
    old.chords.add_more(b"key", "added", 1, 60.0)
    with pytest.MonkeyPatch.context() as patch:
        if expires == "before":
            patch.setattr(old, "ttls", lambda keys: (clock.advance(1000.0), MemoryStore.ttls(old, keys))[1])
        else:
            read = both.chords._old.read_run
            patch.setattr(both.chords._old, "read_run", lambda claim: (read(claim), clock.advance(1000.0))[0])
        outcome = both.chords.return_part(b"key", Part(0, "part", b"value"), 60.0, b"claims")
    assert outcome == (None if expires == "before" else PartOutcome(True, None))
    assert (both.chords.head(b"key") is None) == (expires == "before")


def test_a_new_store_that_lets_no_user_listen_is_polled(tmp_path: Path, old: LMDBStore):
    with redis_server(tmp_path / "redis", port=free_port()) as server:
        server.call("ACL", "SETUSER", "reader", "on", ">pw", "resetchannels", "~*", "+@all")
        new = open_redis(f"redis://reader:pw@127.0.0.1:{server.port}")
        with FallbackStore(new, open_store(old.options.path, durability="none")) as both:
            subscription = both.subscribe()
            assert subscription.add([b"key"]) == {b"key": None}
            assert subscription.fileno() == -1
            subscription.close()


@pytest.mark.parametrize("writer", ["old", "new"])
def test_an_event_loop_is_woken_by_writers_to_either(
    old: LMDBStore, both: FallbackStore, writer: str, no_second_look: None
):
    backend, other = backend_over(both), backend_over(old if writer == "old" else both.new)
    thread = Thread(target=lambda: (wait_until_followed(both), other.store_result("x", 1, "SUCCESS")))

    async def wait() -> Any:
        thread.start()
        return await backend.waiting.in_loop.wait_for("x", 60)

    assert asyncio.run(wait())["result"] == 1
    thread.join()
    backend.waiting.close()
    other.waiting.close()
