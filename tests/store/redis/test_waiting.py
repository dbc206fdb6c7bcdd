"""Waiting for what others store: lost connections, forks, threads, event loops, gevent; and who is alive."""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Thread
from typing import Any

import pytest

from lmdbresults.process.identity import NO_OWNER, lease
from lmdbresults.store import following
from lmdbresults.store.loop_hub import LoopHubs, LoopWait
from lmdbresults.store.redis import RedisStore, open_redis
from lmdbresults.store.redis.listener import Listener
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from tests.support.processes import FORKS_WITH_THREADS, child, in_child, run_script
from tests.support.redis_servers import RedisServer, until

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.usefixtures("only_messages")]


@pytest.fixture
def only_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again only when a message says so: a wake-up that is lost hangs."""
    monkeypatch.setattr(following, "LOOK_EVERY", 3600.0)


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        return str(request.getfixturevalue("server").url)
    return str(request.getfixturevalue("cluster_url"))


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    with open_redis(url) as store:
        yield store


def key(number: int) -> bytes:
    return b"celery-task-meta-%d" % number


def wait_for(hub: ThreadHub, *keys: bytes) -> dict[bytes, bytes | None]:
    values: dict[bytes, bytes | None] = {}
    with ThreadWait(hub, keys) as wait:
        for news in wait:
            values.update(news)
            if all(values.get(key) is not None for key in keys):
                return values
    raise AssertionError("the wait has ended")


def test_threads_that_wait_are_woken_by_another_process(store: RedisStore):
    hub = ThreadHub(store, lambda: None)
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(wait_for, hub, *map(key, range(number, number + 5))) for number in range(0, 40, 5)]
        in_child(lambda: [store.set(key(number), b"%d" % number, 60.0) for number in range(40)])
        values = {key: value for wait in waits for key, value in wait.result().items()}
    assert values == {key(number): b"%d" % number for number in range(40)}
    hub.close()


def test_coroutines_that_wait_are_woken(store: RedisStore):
    hubs = LoopHubs()

    async def wait(number: int) -> bytes | None:
        async with asyncio.timeout(240) if hasattr(asyncio, "timeout") else _Untimed():
            async for news in LoopWait(hubs.get(store, lambda: None), [key(number)]):
                if news.get(key(number)) is not None:
                    return news[key(number)]
        raise AssertionError

    async def main() -> list[bytes | None]:
        tasks = [asyncio.ensure_future(wait(number)) for number in range(20)]
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: [store.set(key(number), b"value") for number in range(20)])
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [b"value"] * 20
    hubs.close()


class _Untimed:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> None: ...


@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")
def test_greenlets_wait_beside_each_other(server: RedisServer):
    source = """
        from gevent import monkey; monkey.patch_all()
        import sys, gevent
        from lmdbresults.store.redis import open_redis
        from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
        store, done = open_redis(sys.argv[1]), []
        hub = ThreadHub(store, lambda: None)
        def wait(key):
            with ThreadWait(hub, [key]) as waiting:
                done.append(next(news[key] for news in waiting if news.get(key) is not None))
        waiting = [gevent.spawn(wait, b"%d" % number) for number in range(10)]
        ticks = gevent.spawn(lambda: [gevent.sleep(0.01) for _ in range(5)])
        ticks.join()
        for number in range(10):
            store.set(b"%d" % number, b"value")
        gevent.joinall(waiting, timeout=240)
        print(len(done), store.owner().pid > 0)
        hub.close()
        store.close()
    """
    run = run_script("\n".join(line[8:] for line in source.splitlines()), server.url)
    assert (run.stdout, run.returncode) == ("10 True\n", 0), run.stderr


def test_what_is_stored_while_the_connection_is_lost_is_found_when_it_is_back(store: RedisStore, url: str, request):
    servers = [request.getfixturevalue("server")] if "unix" in url else request.getfixturevalue("cluster")
    hub = ThreadHub(store, lambda: None)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(wait_for, hub, *map(key, range(20)))
        until(lambda: len(hub._followers) == 20, "the thread does not wait")
        for number in range(20):
            for server in servers:
                server.call("CLIENT", "KILL", "TYPE", "pubsub")
            store.set(key(number), b"value")
        assert set(wait.result(timeout=240).values()) == {b"value"}
    hub.close()


def test_a_forked_child_waits_with_connections_of_its_own(store: RedisStore):
    hub = ThreadHub(store, lambda: None)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(wait_for, hub, key(1))
        until(lambda: bool(hub._followers), "the thread does not wait")
        with child(lambda: (store.set(key(3), b"waits"), wait_for(hub, key(2)))[1]) as waiting:
            until(lambda: store.get(key(3)) is not None, "the child does not run")
            store.set(key(2), b"for the child")
            store.set(key(1), b"for the parent")
            assert wait.result(timeout=240) == {key(1): b"for the parent"}
            assert waiting.join() == {key(2): b"for the child"}
    hub.close()


def test_many_stores_by_threads_and_their_children_do_not_mix_up_answers(store: RedisStore):
    def work(number: int) -> bool:
        return all(
            store.set(key(number), b"%d %d" % (number, turn)) and store.get(key(number)) == b"%d %d" % (number, turn)
            for turn in range(30)
        )

    with ThreadPoolExecutor(4) as pool:
        parents = [pool.submit(work, number) for number in range(4)]
        assert in_child(lambda: [work(number) for number in range(10, 13)]) == [True] * 3
        assert all(parent.result() for parent in parents)


def test_dropped_stores_leave_no_connection_no_thread_and_no_warning(server: RedisServer):
    class Cycle:
        def __init__(self, *held: object) -> None:
            self.held = (self, *held)

    def clients() -> int:
        return len(server.call("CLIENT", "LIST", "TYPE", "normal").splitlines()) + len(listeners())

    def listeners() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "lmdbresults-listener"]

    before = clients()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for turn in range(6):
            store = open_redis(server.url)
            subscription = store.subscribe()
            subscription.add([key(turn)])
            if turn % 2:
                Cycle(store, subscription)
            if turn % 3:
                in_child(lambda subscription=subscription: subscription.add([key(1)]))
        del store, subscription
        gc.collect()
        until(lambda: clients() <= before, "connections or threads are left")
    assert [str(warning.message) for warning in said if warning.category is ResourceWarning] == []


def test_a_connection_is_closed_by_the_thread_that_reads_it(server: RedisServer):
    """Closed by another one, its descriptor may be that of a new socket while the thread still reads from it."""
    closed_by = []
    with open_redis(server.url) as store:
        subscription = store.subscribe()
        subscription.add([key(1)])
        (listener,) = subscription._listeners.values()
        connection = listener._connection
        close = connection.disconnect
        connection.disconnect = lambda: (closed_by.append(threading.current_thread()), close())
        subscription.close()
        listener._thread.join(240)
    assert set(closed_by) == {listener._thread}


def test_only_a_fence_of_its_own_server_makes_a_value_that_is_sent_newer_than_the_last_look(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Listener, "fence", lambda *_: None)
    with open_redis(server.url) as store:
        subscription: Any = store.subscribe()
        subscription.add([key(1)])
        (channel,) = subscription._keys
        subscription.fenced(object(), 99)
        subscription.heard(channel, b"F=older")
        assert subscription._changed == {key(1): None}
        subscription.fenced(subscription._listener_of[key(1)], 99)
        subscription.heard(channel, b"F=newer")
        assert subscription._changed == {key(1): b"newer"}


def test_a_listener_can_report_while_a_thread_follows_a_key(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    with open_redis(server.url) as store:
        subscription: Any = store.subscribe()
        reported: list[bool] = []

        def fence(*_: object) -> None:
            report = Thread(target=subscription.missed)  # as the thread of a listener does, under its own lock
            report.start()
            report.join(240)
            reported.append(not report.is_alive())

        monkeypatch.setattr(Listener, "fence", fence)
        subscription.add([key(1)])
    assert reported == [True]


# -- who is alive ------------------------------------------------------------------------------------------------------


def test_a_dead_process_of_this_machine_is_seen_at_once(store: RedisStore):
    owner = in_child(store.owner)
    assert store.is_alive(store.owner()) is True
    assert store.is_alive(owner) is False
    with lease():
        within = store.owner()
        assert store.is_alive(within) is True
    assert store.is_alive(within) is False


def test_a_process_of_another_machine_lives_as_long_as_its_lease(server: RedisServer):
    with open_redis(server.url, owner_lease=60.0) as store:
        elsewhere = store.owner()._replace(boot="another machine/1")
        assert store.is_alive(elsewhere) is False
        name = store._leases._name
        seconds, _ = server.call("TIME")
        server.call("ZADD", name, (seconds + 30) * 1000, f"{elsewhere.boot} {elsewhere.pid} {elsewhere.started}")
        assert store.is_alive(elsewhere) is True
        server.call("ZADD", name, (seconds - 30) * 1000, f"{elsewhere.boot} {elsewhere.pid} {elsewhere.started}")
        assert store.is_alive(elsewhere) is False
        assert store.is_alive(NO_OWNER) is False


def test_a_thread_renews_the_lease_until_the_store_is_closed(server: RedisServer):
    with open_redis(server.url, owner_lease=0.5) as store:
        owner = store.owner()

        def ends() -> float:
            return float(server.call("ZSCORE", store._leases._name, f"{owner.boot} {owner.pid} {owner.started}"))

        first = ends()
        until(lambda: ends() > first, "the lease is not renewed")
        assert in_child(lambda: store.owner().pid == os.getpid()) is True
        until(lambda: server.call("ZCARD", store._leases._name) == 2, "the child has no lease of its own")
        thread = store._leases._thread
    assert thread is not None
    thread.join(240)
    assert not thread.is_alive()
