"""Waiting for the write lock: signals, deadlines, forks and other greenlets are not held up by it."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from lmdbresults import LMDBStore, errors, open_store
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.lmdb.engine import write_lock
from lmdbresults.store.lmdb.file import lock_file
from lmdbresults.store.lmdb.file.lock_file import UNKNOWN
from tests.support.covering import wait_until
from tests.support.processes import FORKS_WITH_THREADS, in_child, in_children, in_thread, run_script

linux = pytest.mark.skipif(write_lock.SET_LOCK is None or not lock_file._places()[0], reason="Linux with glibc only")
pytestmark = [linux, pytest.mark.filterwarnings(FORKS_WITH_THREADS)]

WRITE = """
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability="none") as store:
    store.incr(b"theirs")
"""
HOLD_TRANSACTION = """
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability=sys.argv[2]) as store, store.write() as txn:
    txn.set(b"theirs", b"value")
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_KERNEL_LOCK = """
import fcntl, os, sys
from lmdbresults.store.lmdb.engine import write_lock
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), write_lock.SET_LOCK, write_lock._LOCK)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def elsewhere(source: str, path: str, durability: str = "none") -> Iterator[subprocess.Popen[str]]:
    """Run a program that holds a lock until its input ends."""
    with subprocess.Popen([sys.executable, "-c", source, path, durability], stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@contextmanager
def in_transaction_elsewhere(store: LMDBStore) -> Iterator[subprocess.Popen[str]]:
    with elsewhere(HOLD_TRANSACTION, store.options.path, store.options.durability) as process:
        yield process


def release(process: subprocess.Popen[str]) -> None:
    """Let the other process commit and end."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def after(seconds: float, work: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def once(condition: Callable[[], object], work: Callable[[], object]) -> None:
    """Do some work in a thread once a condition holds."""
    threading.Thread(target=lambda: (wait_until(lambda: bool(condition())), work())).start()


# -- another process writes ----------------------------------------------------------------------------------------


def test_a_write_waits_for_the_transaction_of_another_process(store: LMDBStore) -> None:
    with in_transaction_elsewhere(store) as process:
        after(0.2, lambda: release(process))
        store.set(b"ours", b"value")
        assert store.get(b"theirs") == b"value"


def test_a_write_goes_on_when_the_process_in_a_transaction_is_killed(store: LMDBStore) -> None:
    with in_transaction_elsewhere(store) as process:
        after(0.2, process.kill)
        store.set(b"ours", b"value")
        assert store.get(b"theirs") is None


def write_block(store: LMDBStore) -> None:
    with store.write() as txn:
        txn.set(b"ours", b"value")


def open_again(store: LMDBStore) -> None:
    gate.exclusive(store._environment.file.close)
    store.set(b"ours", b"value")


WRITES: dict[str, Callable[[LMDBStore], object]] = {
    "set": lambda store: store.set(b"ours", b"value"),
    "update": lambda store: store.update(lambda txn: txn.set(b"ours", b"value")),
    "block": write_block,
    "flush": lambda store: store.flush(),
    "sweep": lambda store: store.sweep(),
    "open again": open_again,
}


def alarmed(work: Callable[..., object], *args: object) -> None:
    """Call a function; a signal comes meanwhile. Not sooner, or it would interrupt the test."""
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    work(*args)


@pytest.mark.parametrize("kind", WRITES)
def test_an_exception_out_of_a_signal_handler_ends_the_wait(path: str, kind: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_store(path, checkpoint_interval=3600) as store:
            store.set(b"before", b"value")
            with in_transaction_elsewhere(store) as process:
                os.kill(process.pid, signal.SIGSTOP)
                with pytest.raises(KeyboardInterrupt):
                    alarmed(WRITES[kind], store)
                assert store.get(b"ours") is None
            in_thread(store.set, b"ours", b"value")
            in_child(store.set, b"ours", b"value")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_a_signal_handler_runs_during_the_wait_and_the_write_goes_on(store: LMDBStore) -> None:
    seen: list[int] = []
    former = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    try:
        with in_transaction_elsewhere(store) as process:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            once(lambda: seen, lambda: (seen.append(0), release(process)))
            store.set(b"ours", b"value")
    finally:
        signal.signal(signal.SIGALRM, former)
    assert seen == [signal.SIGALRM, 0]
    assert store.get(b"ours") == b"value"


def test_a_fork_does_not_wait_for_a_waiting_writer(store: LMDBStore) -> None:
    store.set(b"before", b"value")
    with in_transaction_elsewhere(store) as process:
        thread = threading.Thread(target=store.set, args=(b"ours", b"value"))
        thread.start()
        time.sleep(0.05)
        assert in_child(store.get, b"before") == b"value"  # by a store that can be used
        assert thread.is_alive()
        release(process)
        thread.join()
    assert store.get(b"ours") == b"value"


def test_a_file_can_be_closed_while_another_process_is_stopped_in_a_transaction(path: str) -> None:
    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"before", b"value")  # and with it a pin, which closing takes away
        with in_transaction_elsewhere(store) as process:
            os.kill(process.pid, signal.SIGSTOP)
            store.close()
    with open_store(path) as store:
        assert store.get(b"before") == b"value"
        assert store.check() == []


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_other_greenlets_run_while_another_process_writes(store: LMDBStore, kind: str) -> None:
    source = f"""
import {kind}{".monkey" if kind == "gevent" else ""}
{kind}.{"monkey.patch_all()" if kind == "gevent" else "monkey_patch()"}
import subprocess, sys, time
from lmdbresults import open_store
beats = []
def beat():
    while True:
        beats.append(time.monotonic())
        {kind}.sleep(0.01)
def release():
    while len(beats) <= 10:
        {kind}.sleep(0.01)
    holder.kill()
store = open_store(sys.argv[1], durability="none")
holder = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1], "none"], stdin=-1, stdout=-1)
assert holder.stdout.readline() == b"held\\n"
{kind}.spawn(beat)
{kind}.spawn(release)
store.set(b"ours", b"value")
print(len(beats) > 10, store.get(b"ours"))
"""
    if find_spec(kind) is None:  # not imported here, as that changes how forks behave
        pytest.skip(f"{kind} is not installed")
    command = [sys.executable, "-c", source, store.options.path, HOLD_TRANSACTION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, "True b'value'\n"), done.stderr


# -- lock_timeout ----------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(path: str) -> Iterator[LMDBStore]:
    with open_store(path, durability="none", lock_timeout=0.1) as store:
        yield store
        assert store.check() == []


def test_a_write_raises_store_busy_after_lock_timeout_and_names_the_process(impatient: LMDBStore) -> None:
    with in_transaction_elsewhere(impatient) as process:
        for attempt in (lambda: impatient.set(b"ours", b"value"), impatient.write().__enter__):
            with pytest.raises(errors.StoreBusy, match=rf"0\.1 seconds.*process {process.pid} \(.*lock_timeout"):
                attempt()
        assert impatient.get(b"ours") is None
        release(process)
    impatient.set(b"ours", b"value")


def test_lock_timeout_holds_for_threads_of_the_same_process(impatient: LMDBStore) -> None:
    def write() -> None:
        with pytest.raises(errors.StoreBusy, match="this process"):
            impatient.set(b"ours", b"value")

    with impatient.write() as txn:
        txn.set(b"theirs", b"value")
        in_thread(write)
    in_thread(impatient.set, b"ours", b"value")
    assert impatient.get(b"ours") == b"value"


def test_without_a_timeout_the_log_tells_of_a_long_wait(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(write_lock, "_WARN_AFTER", 0.05)
    with caplog.at_level(logging.WARNING), in_transaction_elsewhere(store) as process:
        once(lambda: caplog.records, lambda: release(process))
        store.set(b"ours", b"value")
    assert [f"process {process.pid}" in record.getMessage() for record in caplog.records] == [True]


def test_log_says_that_the_process_waited_for_is_stopped(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(write_lock, "_WARN_AFTER", 0.05)
    with caplog.at_level(logging.WARNING), in_transaction_elsewhere(store) as process:
        os.kill(process.pid, signal.SIGSTOP)
        once(lambda: caplog.records, lambda: (os.kill(process.pid, signal.SIGCONT), release(process)))
        store.set(b"ours", b"value")
    (message,) = caplog.messages
    assert re.search(rf"process {process.pid} \(.*, stopped\)", message)
    assert message.endswith("or set lock_timeout, after which a write fails.")


def test_where_the_lock_cannot_be_seen_a_write_waits_in_lmdb(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "_PLACES", {})
    gate.exclusive(store._environment.file.close)
    with in_transaction_elsewhere(store) as process:
        after(0.2, lambda: release(process))
        store.set(b"ours", b"value")
        assert store._environment.file.write_lock.word is UNKNOWN
    assert store.get(b"ours") == b"value"


# -- the kernel's lock -----------------------------------------------------------------------------------------------


class Calls:
    """Counts how often the kernel's lock is tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], object] | None = None) -> None:
        self.tries, self._answer, self._fcntl = 0, answer, fcntl.fcntl
        monkeypatch.setattr(write_lock.fcntl, "fcntl", self)

    def __call__(self, descriptor: int, command: int, argument: bytes) -> object:
        if argument == write_lock._LOCK:
            self.tries += 1
            if self._answer is not None:
                return self._answer()
        return self._fcntl(descriptor, command, argument)


def is_free(path: str) -> bool:
    """Return whether a new descriptor can have the kernel's lock."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, write_lock.SET_LOCK, write_lock._LOCK)  # type: ignore[arg-type]
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def store_some(store: LMDBStore, count: int) -> None:
    for number in range(count):
        store.set(b"%d" % number, b"value")


def meet_others(store: LMDBStore) -> None:
    """Have a write find another process in a transaction."""
    with in_transaction_elsewhere(store) as process:
        after(0.05, process.kill)
        store.set(b"ours", b"value")


def test_a_process_alone_does_not_try_the_kernel_lock(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    store_some(store, 50)
    assert run_script(WRITE, store.options.path).returncode == 0  # and one that writes at other times is no matter
    with store.write() as txn:
        txn.set(b"block", b"value")
    store_some(store, 50)
    store.close()
    assert calls.tries == 0


def test_the_kernel_lock_is_tried_for_some_writes_after_meeting_another_process(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet_others(store)
    calls = Calls(monkeypatch)
    store_some(store, 10)
    assert calls.tries == 10
    store_some(store, write_lock._CONTENDED_WRITES)
    assert calls.tries == write_lock._CONTENDED_WRITES


def test_the_kernel_lock_is_free_after_each_write(store: LMDBStore, path: str) -> None:
    meet_others(store)
    store_some(store, 1)
    assert is_free(path)
    with pytest.raises(ValueError, match="ttl"):
        store.set(b"key", b"value", ttl=-1)
    assert is_free(path)


def test_a_process_that_is_stopped_with_the_kernel_lock_does_not_block_others(
    store: LMDBStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet_others(store)
    calls = Calls(monkeypatch)
    with elsewhere(HOLD_KERNEL_LOCK, path):
        store.set(b"key", b"value")
        tries = calls.tries
        assert tries > 1
        assert not is_free(path)
        tries = calls.tries
        store_some(store, 10)
        assert calls.tries == tries  # it is not tried again until another process is met
    assert store.get(b"key") == b"value"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_exception_out_of_a_signal_handler_leaves_the_kernel_lock_free(
    store: LMDBStore, path: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    meet_others(store)
    with monkeypatch.context() as patch:
        real = fcntl.fcntl

        def interrupted(descriptor: int, command: int, argument: bytes) -> None:
            if moment == "after" or argument != write_lock._LOCK:
                real(descriptor, command, argument)
            if argument == write_lock._LOCK:
                raise KeyboardInterrupt

        patch.setattr(write_lock.fcntl, "fcntl", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.set(b"key", b"value")
    assert is_free(path)
    store.set(b"key", b"value")
    assert store.get(b"key") == b"value"


def test_a_file_system_without_the_lock_is_not_asked_again(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(22, "Invalid argument")

    meet_others(store)
    calls = Calls(monkeypatch, refuse)
    store_some(store, 5)
    meet_others(store)
    store_some(store, 5)
    assert calls.tries == 1


def test_a_fork_inside_a_transaction_leaves_the_kernel_lock_to_the_parent(store: LMDBStore, path: str) -> None:
    meet_others(store)
    with store.write() as txn:
        txn.set(b"block", b"value")
        with pytest.raises(errors.ForkedStore):
            in_child(store.set, b"key", b"value")
        assert not is_free(path)
    store.set(b"key", b"value")
    assert is_free(path)


def test_several_processes_count_correctly(store: LMDBStore) -> None:
    def count(number: int) -> None:
        for _ in range(300):
            store.incr(b"count")

    in_children(4, count)
    assert store.get(b"count") == b"1200"
    assert store.check() == []
