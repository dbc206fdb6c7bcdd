"""What a caller meets when the server is down, refuses, is full, or loses an answer."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from lmdbresults.errors import AccessDenied, ConfigurationError, StoreError, StoreFull, StoreUnavailable
from lmdbresults.store.redis import open_redis
from lmdbresults.store.transactions import WriteTransaction
from tests.support.cutting import Proxy, proxy
from tests.support.redis_servers import RedisServer, free_port, redis_server, until


@pytest.fixture(scope="module")
def shared_tcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("tcp"), port=free_port()) as server:
        yield server


@pytest.fixture
def tcp_server(shared_tcp_server: RedisServer) -> RedisServer:
    shared_tcp_server.call("FLUSHALL")
    return shared_tcp_server


@pytest.fixture
def between(tcp_server: RedisServer) -> Iterator[Proxy]:
    with proxy(tcp_server.port) as between:
        yield between


def test_a_server_that_is_down_is_an_error_that_names_it_and_the_cure():
    port = free_port()
    with open_redis(f"redis://127.0.0.1:{port}", retry_timeout=0.2) as store:
        for operation in (lambda: store.get(b"key"), lambda: store.mget([b"a", b"b"]), lambda: list(store.scan())):
            with pytest.raises(
                StoreUnavailable, match=rf"redis://127.0.0.1:{port} does not serve.*Check that"
            ) as caught:
                operation()
            assert isinstance(caught.value, ConnectionError)


def test_an_operation_waits_for_a_server_that_starts_late(tmp_path: Path):
    port, stored = free_port(), threading.Event()
    with open_redis(f"redis://127.0.0.1:{port}", retry_timeout=240.0) as store:
        thread = threading.Thread(target=lambda: store.set(b"key", b"value") and stored.set())
        thread.start()
        assert not stored.wait(0.1)
        with redis_server(tmp_path, port=port):
            assert stored.wait(240)
            assert store.get(b"key") == b"value"
        thread.join()


def test_a_server_that_restarts_loses_no_acknowledged_value_that_it_has_on_disk(tmp_path: Path):
    port = free_port()
    settings = ("--appendonly", "yes", "--appendfsync", "always")
    with open_redis(f"redis://127.0.0.1:{port}", retry_timeout=240.0) as store:
        for life in range(2):
            with redis_server(tmp_path, *settings, port=port) as server:
                subscription = store.subscribe()
                for number in range(50):
                    store.set(b"%d %d" % (life, number), b"value")
                subscription.close()
                server.kill()
        with redis_server(tmp_path, *settings, port=port):
            assert len(store.mget(b"%d %d" % (life, number) for life in range(2) for number in range(50))) == 100
            assert dict(store.scan()).keys() == {b"%d %d" % (life, number) for life in range(2) for number in range(50)}


def test_a_scan_names_every_key_though_the_server_restarts_meanwhile(tmp_path: Path):
    """A cursor means nothing to another process of the server, which would leave keys out."""
    port, settings, keys = free_port(), ("--appendonly", "yes"), {b"%d" % number for number in range(4000)}
    with open_redis(f"redis://127.0.0.1:{port}", retry_timeout=60.0) as store:
        with redis_server(tmp_path, *settings, port=port) as server:
            store.replace_many([(key, None, b"value", None) for key in keys])
            found = store.scan()
            first, _ = next(found)
            server.process.terminate()  # so that all is on disk
            server.process.wait()
        with redis_server(tmp_path, *settings, port=port):
            assert sorted([first, *(key for key, _ in found)]) == sorted(keys)


def test_a_step_whose_answer_is_lost_happens_once(between: Proxy):
    def count_twice(txn: WriteTransaction) -> int:
        return txn.incr(b"sum") + txn.incr(b"sum")

    with open_redis(f"redis://127.0.0.1:{between.port}") as store:
        store.set(b"sum", b"0")
        for number in range(3):
            for step, outcome in (
                (lambda: store.incr(b"counter"), number + 1),
                (lambda number=number: store.add(b"added %d" % number, b"value"), True),
                (lambda number=number: store.set(b"set %d" % number, b"value", 60.0), True),
                (lambda number=number: store.set(b"kept %d" % number, b"done", keep_prefix=b"done"), True),
                (lambda number=number: store.set(b"kept %d" % number, b"late", keep_prefix=b"done"), False),
                (lambda number=number: store.replace_many([(b"kept %d" % number, b"done", b"new", None)]), [True]),
                (lambda number=number: store.replace_many([(b"kept %d" % number, b"done", b"old", None)]), [False]),
                (lambda number=number: store.delete(b"kept %d" % number), True),
                (lambda number=number: store.delete(b"kept %d" % number), False),
            ):
                between.answers_to_lose = 1
                assert step() == outcome
                assert between.answers_to_lose == 0
            store.update(count_twice)
            between.answers_to_lose = 2  # a look, and the commit or another look
            store.update(count_twice)
        assert store.mget([b"counter", b"sum"]) == [b"3", b"12"]


def test_a_chord_whose_last_part_loses_its_answer_is_claimed(between: Proxy):
    from lmdbresults.store.chords import Part

    with open_redis(f"redis://127.0.0.1:{between.port}") as store:
        store.owner()
        store.chords.open(b"chord-unlock-g", 60.0, size=2)
        for number in range(2):
            between.answers_to_lose = 1
            outcome = store.chords.return_part(
                b"chord-unlock-g", Part(number, f"{number}", b"value"), 60.0, b"chord-unlock-.claims"
            )
            assert between.answers_to_lose == 0
            assert outcome is not None
            assert outcome.counts is True
        assert outcome.claim is not None
        assert store.chords.end(outcome.claim, 60.0, b"chord-unlock-.claims", [], is_last=True)


def test_a_silent_server_is_given_up(between: Proxy):
    with open_redis(f"redis://127.0.0.1:{between.port}", socket_timeout=0.1, retry_timeout=0.3) as store:

        def has_answer() -> bool:
            with suppress(StoreUnavailable):  # a busy machine may be as slow as a silent server
                return store.get(b"key") is None
            return False

        until(has_answer, "the server does not answer")
        between.is_silent = True
        with pytest.raises(StoreUnavailable, match="retry_timeout"):
            store.get(b"key")
        between.is_silent = False
        between.cut()
        until(has_answer, "the server does not answer any more")


def test_a_full_server_refuses_writes_at_once_and_serves_reads(tcp_server: RedisServer):
    with open_redis(tcp_server.url) as store:
        store.set(b"key", b"value")
        tcp_server.call("CONFIG", "SET", "maxmemory", "1mb")
        try:
            with pytest.raises(StoreFull, match="maxmemory"):
                store.set(b"large", bytes(1 << 20))
            with pytest.raises(StoreFull):
                store.update(lambda txn: txn.set(b"large", bytes(1 << 20)))
            assert store.get(b"key") == b"value"
            assert store.delete(b"key") is True
        finally:
            tcp_server.call("CONFIG", "SET", "maxmemory", "500mb")


def test_a_replica_is_tried_again_until_it_is_master(tcp_server: RedisServer):
    with open_redis(tcp_server.url, retry_timeout=0.3) as store:
        tcp_server.call("REPLICAOF", "127.0.0.1", free_port())
        try:
            with pytest.raises(StoreUnavailable, match="read only replica"):
                store.set(b"key", b"value")
        finally:
            tcp_server.call("REPLICAOF", "NO", "ONE")
        assert store.set(b"key", b"value") is True


def test_a_wrong_password_or_a_missing_permission_is_refused_at_once(tmp_path: Path):
    with redis_server(tmp_path, "--requirepass", "right", port=free_port()) as server:
        address = f"127.0.0.1:{server.port}"
        for url in (f"redis://{address}", f"redis://:wrong@{address}", f"redis://unknown:user@{address}"):
            with open_redis(url) as store, pytest.raises(AccessDenied, match="Check username and password"):
                store.get(b"key")
        with open_redis(f"redis://:right@{address}") as store:
            store.set(b"key", b"value")
            server.client(password="right").execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get")
        with open_redis(f"redis://reader:pw@{address}") as store:
            assert store.get(b"key") == b"value"
            with pytest.raises(AccessDenied, match="what the user may do"):
                store.set(b"key", b"value")


def test_a_user_who_may_not_listen_polls_without_waiting_for_a_confirmation(tmp_path: Path):
    with redis_server(tmp_path, port=free_port()) as server, open_redis(server.url) as store:
        server.call("ACL", "SETUSER", "reader", "on", ">pw", "resetchannels", "~*", "+@all")
        url = f"redis://reader:pw@127.0.0.1:{server.port}"
        with open_redis(url, socket_timeout=3600.0) as other, closing(other.subscribe()) as subscription:
            for number in range(3):
                store.set(b"%d" % number, b"value")
                assert subscription.add([b"%d" % number]) == {b"%d" % number: b"value"}
            assert subscription.fileno() == -1


def test_a_key_that_another_thread_is_about_to_follow_is_followed_before_it_is_read(tcp_server: RedisServer):
    with open_redis(tcp_server.url) as store, closing(store.subscribe()) as subscription:
        os.kill(tcp_server.process.pid, signal.SIGSTOP)
        first = threading.Thread(target=subscription.follow, args=([b"key"],))
        try:
            first.start()
            until(lambda: b"key" in subscription._listener_of, "the first thread follows nothing")
        finally:
            resume = threading.Timer(0.2, os.kill, (tcp_server.process.pid, signal.SIGCONT))
            resume.start()
        subscription.follow([b"key"])
        assert len(subscription._listener_of[b"key"]._confirmed) == 1
        first.join()
        resume.join()


def test_the_outcome_of_a_step_is_kept_for_longer_than_it_is_tried(tcp_server: RedisServer):
    with open_redis(tcp_server.url, retry_timeout=300.0) as store:
        store.incr(b"counter")
        (name,) = tcp_server.call("KEYS", "*.once-*")
        assert tcp_server.call("PTTL", name) > 300_000


def test_a_key_of_another_program_is_an_error_that_names_the_cure(tcp_server: RedisServer):
    tcp_server.call("LPUSH", "{store}key", "value")
    with open_redis(tcp_server.url) as store:
        with pytest.raises(StoreError, match="global_keyprefix"):
            store.get(b"key")
        assert dict(store.scan()) == {}


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_a_server_that_is_of_another_kind_than_the_url_says_is_an_error_at_once(tcp_server: RedisServer, kind: str):
    with (
        open_redis(f"redis+{kind}://127.0.0.1:{tcp_server.port}", service_name="main") as store,
        pytest.raises(ConfigurationError, match="use redis://"),
    ):
        store.get(b"key")


def test_a_node_of_a_cluster_says_that_it_is_one(cluster: list[RedisServer]):
    with open_redis(cluster[0].url) as store, pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        store.mget(b"celery-task-meta-%d" % number for number in range(20))
