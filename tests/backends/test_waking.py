"""A thread that waits is woken by the process that stores the result. A lost wake-up hangs, see elsewhere.py."""

import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmdbresults.backends import LMDBBackend
from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, ResultSet
from lmdbresults.store.lmdb.notify.messages import pack
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.lmdb.types import FINAL
from tests.support.elsewhere import HOUR, Elsewhere, elsewhere, registrations, sockets
from tests.support.plain import opened
from tests.support.processes import FORKS_WITH_THREADS
from tests.support.waits import threads, until

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.usefixtures("no_second_look")]
interface = pytest.mark.interface


@pytest.fixture
def lmdb(path: str) -> Iterator[LMDBBackend]:
    with opened(path) as backend:
        yield backend
        assert registrations(backend) == 0
    assert sockets(path) == []


@pytest.fixture(scope="module")
def process() -> Iterator[Elsewhere]:
    with elsewhere() as process:
        yield process


@pytest.fixture
def other(path: str, lmdb: LMDBBackend, process: Elsewhere) -> Iterator[Elsewhere]:
    process.do(("open", path))
    yield process
    process.end()


def wait_for(backend: LMDBBackend, **options: Any) -> Any:
    return [backend.wait_for("id", interval=HOUR, **options)["result"]]


def get_many(backend: LMDBBackend, **options: Any) -> Any:
    return [meta["result"] for _, meta in backend.get_many(["id"], interval=HOUR, **options)]


def iter_native(backend: LMDBBackend, **options: Any) -> Any:
    results = ResultSet([AsyncResult("id", backend)])
    return [meta["result"] for _, meta in results.iter_native(interval=HOUR, **options)]


def get(backend: LMDBBackend, **options: Any) -> Any:
    return [AsyncResult("id", backend).get(interval=HOUR, **options)]


def get_with_messages(backend: LMDBBackend, **options: Any) -> Any:
    return [AsyncResult("id", backend).get(interval=HOUR, on_message=lambda meta: None, **options)]


def join(backend: LMDBBackend, **options: Any) -> Any:
    return ResultSet([AsyncResult("id", backend)]).join(interval=HOUR, **options)


def join_native(backend: LMDBBackend, **options: Any) -> Any:
    return ResultSet([AsyncResult("id", backend)]).join_native(interval=HOUR, **options)


def iterate(backend: LMDBBackend, timeout: float | None = None) -> Any:
    return list(ResultSet([AsyncResult("id", backend)]).iterate(timeout, interval=HOUR))


CALLING = [wait_for, get_many, iter_native, get, get_with_messages, join, join_native]
WAYS = [*CALLING, iterate]

Way = Callable[..., Any]


@interface("wakes")
@pytest.mark.parametrize("way", WAYS)
def test_another_process_wakes_the_waiter(way: Way, lmdb, other):
    other.begin(("await registrations", 1), ("mark_as_done", "id", 42))
    assert way(lmdb) == [42]


@interface("wakes")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [b"rubbish", b"\x9c\x7f\xa7SUCCESS"])
def test_a_message_with_a_value_that_cannot_be_decoded_only_makes_the_waiter_look(way: Way, value: bytes, lmdb, other):
    def forge() -> None:
        until(lambda: registrations(lmdb))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(f"{path}-wake/{sockets(path)[0]}")
            sender.send(pack(place_of(lmdb.get_key_for_task("id")), FINAL, 1 << 60, 0.0, value))
            until(lambda: not is_queued(sender))
        other.begin(("mark_as_done", "id", 42))

    path = lmdb._options.path
    with threads(1, lambda _: forge()):
        assert way(lmdb) == [42]


def is_queued(sender: socket.socket) -> bool:
    """Return whether what was sent has not been read."""
    return struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))) != (0,)


@interface("wakes")
@pytest.mark.parametrize("way", WAYS)
def test_the_timeout_is_kept(way: Way, lmdb):
    with pytest.raises(ResultTimeout):
        way(lmdb, timeout=0.01)


@interface("wakes")
@pytest.mark.parametrize("way", CALLING)
def test_the_callback_between_two_looks_is_called(way: Way, lmdb, other):
    called: list[int] = []
    other.begin(("await registrations", 1), ("mark_as_done", "id", 42))
    assert way(lmdb, on_interval=lambda: called.append(1)) == [42]
    assert called


@interface("wakes")
@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_ends_waiting_at_once(way: Way, lmdb, other):
    other.begin(("await registrations", 1), ("signal", os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        way(lmdb)
    assert registrations(lmdb) == 0


@pytest.fixture
def terminated() -> Iterator[type[Exception]]:
    class Terminated(Exception):
        """Raised by the handler of SIGTERM."""

    def handle(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    yield Terminated
    signal.signal(signal.SIGTERM, before)


@interface("wakes")
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_handler_that_raises_ends_waiting_at_once(way: Way, lmdb, other, terminated):
    other.begin(("await registrations", 1), ("signal", os.getpid(), signal.SIGTERM))
    with pytest.raises(terminated):
        way(lmdb)
    assert registrations(lmdb) == 0


@interface("watch")
def test_watching_is_ended_by_ctrl_c(lmdb, other):
    other.begin(("await registrations", 1), ("signal", os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        next(lmdb.watch("id"))
    assert registrations(lmdb) == 0


@interface("wakes")
def test_messages_of_states_on_the_way_wake_too(lmdb, other):
    messages: list[Any] = []

    def on_message(meta: Any) -> None:
        messages.append((meta["status"], meta["result"]))
        if meta["status"] == "PROGRESS":
            other.end()
            other.begin(("mark_as_done", "id", 42))

    other.begin(("await registrations", 1), ("store_result", "id", 7, "PROGRESS"))
    assert AsyncResult("id", lmdb).get(interval=HOUR, on_message=on_message) == 42
    assert messages == [("PROGRESS", 7), ("SUCCESS", 42)]


@interface("wakes")
def test_a_state_that_is_stored_between_the_first_look_and_the_subscription_is_told(lmdb, monkeypatch):
    follow = lmdb.waiting.hub.follow

    def late(*args: Any) -> Any:
        monkeypatch.undo()
        lmdb.store_result("id", 7, "PROGRESS")
        return follow(*args)

    def on_message(meta: Any) -> None:
        messages.append(meta["status"])
        if meta["status"] == "PROGRESS":
            lmdb.mark_as_done("id", 42)

    messages: list[str] = []
    monkeypatch.setattr(lmdb.waiting.hub, "follow", late)
    assert AsyncResult("id", lmdb).get(interval=HOUR, on_message=on_message) == 42
    assert messages == ["PROGRESS", "SUCCESS"]


def test_waiting_for_some_states_sleeps_while_the_task_is_in_others(lmdb, other):
    lmdb.mark_as_failure("id", ValueError("not what is waited for"))
    looks: list[int] = []
    other.begin(("await registrations", 1), ("mark_as_done", "id", 42))
    [(_, meta)] = lmdb.get_many(["id"], READY_STATES=frozenset({"SUCCESS"}), on_interval=lambda: looks.append(1))
    assert meta["result"] == 42
    assert len(looks) < 5
