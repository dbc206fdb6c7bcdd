"""A process that is stopped in the 0.05 µs in which it has LMDB's reader table locked: others are told, and go on."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreBusy
from lmdbresults.store.lmdb.engine import write_lock
from lmdbresults.store.lmdb.file import lock_file, reader_table
from tests.crash.recording import compiled
from tests.support.covering import wait_until
from tests.support.interrupting import Interruption
from tests.support.processes import FORKS_WITH_THREADS, in_child

pytestmark = [
    pytest.mark.filterwarnings(FORKS_WITH_THREADS),
    pytest.mark.skipif(not lock_file._places()[0], reason="the mutex cannot be seen on this system"),
]

READS = """
import sys
from lmdbresults import open_store
store = open_store(sys.argv[1])
while True:
    store.get(b"key")
"""


@contextmanager
def stopped_reader(path: str, **stop: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "LD_PRELOAD": compiled("stopping.c"), **(stop or {"STOP_AT_LOCK": "50"})}
    root = Path(__file__).parents[4]
    with subprocess.Popen([sys.executable, "-c", READS, path], env=environment, cwd=root) as process:
        try:
            wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            yield process
        finally:
            process.kill()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_table, "LOCK_PATIENCE", 0.2)


OPERATIONS: dict[str, Callable[[LMDBStore], object]] = {
    "get": lambda store: store.get(b"key"),
    "view": lambda store: store.view(lambda txn: txn.get(b"key")),
    "scan": lambda store: list(store.scan()),
    "read block": lambda store: store.read().__enter__(),
}


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_reads_end_by_an_error_that_names_the_process_until_it_is_gone(
    path: str, operation: Callable[[LMDBStore], object]
) -> None:
    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"key", b"value")
        with stopped_reader(path) as process:
            with pytest.raises(StoreBusy, match=rf"process {process.pid} \(.*stopped\).*Continue or end it"):
                operation(store)
            store.set(b"key", b"other")  # needs no reader
        assert store.get(b"key") == b"other"
        assert store.check() == []


@pytest.mark.usefixtures("patience")
def test_the_file_cannot_be_opened_until_the_process_is_gone(path: str) -> None:
    with open_store(path):
        pass
    with stopped_reader(path) as process, pytest.raises(StoreBusy, match=rf"process {process.pid} \(.*stopped\)"):
        open_store(path)
    in_child(lambda: open_store(path).set(b"key", b"value"))
    with open_store(path) as store:
        assert store.get(b"key") == b"value"


@pytest.mark.usefixtures("patience")
def test_a_process_that_is_stopped_as_it_opens_the_file_stops_no_other(path: str) -> None:
    with open_store(path):
        pass
    with stopped_reader(path, STOP_AT_EXCLUSIVE="1") as process:
        with pytest.raises(StoreBusy, match=rf"process {process.pid} \(.*stopped\)"):
            open_store(path)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: opens(path))


def opens(path: str) -> bool:
    with suppress(StoreBusy), open_store(path):
        return True
    return False


@pytest.mark.usefixtures("patience")
def test_a_checkpoint_is_refused_and_can_be_made_later(path: str) -> None:
    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"key", b"value")
        with stopped_reader(path), pytest.raises(StoreBusy, match="stopped"):
            store.flush()
        store.flush()


def test_a_read_goes_on_once_the_process_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_table, "LOCK_PATIENCE", 3600.0)
    with open_store(path) as store:
        store.set(b"key", b"value")
        with stopped_reader(path) as process:
            threading.Timer(0.3, process.send_signal, [signal.SIGCONT]).start()
            assert store.get(b"key") == b"value"


def alarmed(work: Callable[..., object], *args: object) -> None:
    """Call a function; a signal comes meanwhile. Not sooner, or it would interrupt the test."""
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    work(*args)


def test_a_signal_ends_a_read_that_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_table, "LOCK_PATIENCE", 3600.0)

    def handler(*_: object) -> None:
        raise Interruption

    former = signal.signal(signal.SIGALRM, handler)
    try:
        with open_store(path) as store:
            store.set(b"key", b"value")
            with stopped_reader(path), pytest.raises(Interruption):
                alarmed(store.get, b"key")
            assert store.get(b"key") == b"value"
    finally:
        signal.signal(signal.SIGALRM, former)


def test_a_long_wait_is_logged(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_lock, "_WARN_AFTER", 0.05)
    monkeypatch.setattr(reader_table, "LOCK_PATIENCE", 60.0)
    messages = []

    def resume(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        process.send_signal(signal.SIGCONT)  # without the warning, the read would fail
        return True

    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"key", b"value")
        with stopped_reader(path) as process:
            write_lock.logger.addFilter(resume)
            try:
                store.get(b"key")
            finally:
                write_lock.logger.removeFilter(resume)
    (message,) = messages
    assert f"process {process.pid}" in message
