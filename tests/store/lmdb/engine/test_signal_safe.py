"""A store that is interrupted: closed while in use, at the exit of the interpreter, by signals and their exceptions."""

import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_store
from tests.support.processes import FORKS_WITH_THREADS, busy_threads, in_child, in_thread, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

LARGE = os.urandom(200_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.lmdb"


def see_no_lock_held(store: LMDBStore) -> None:
    """See that any thread and any process can still write, and that the file can be closed."""
    in_thread(store.set, b"from a thread", b"value")
    in_child(store.set, b"from a child", b"value")
    in_thread(open_store(store.options.path, durability="none").close)
    assert store.check() == []


# -- closing -----------------------------------------------------------------------------------------------------


def test_whoever_uses_a_store_that_is_closed_meanwhile_succeeds_or_is_told(path: Path) -> None:
    def use(number: int) -> None:
        store = stores[0]
        with suppress(errors.StoreClosed):
            store.set(b"key", b"%d" % number)
            assert store.get(b"key") is not None
            with store.write() as txn:
                txn.incr(b"n")
            assert len(list(store.scan())) >= 1

    stores = [open_store(path, durability="none")]
    with busy_threads(use, use, use):
        for turn in range(200):
            former, stores[0] = stores[0], open_store(path, durability="none")
            former.close()
            if turn % 2:
                stores[0].close()  # the last one: the file is closed too
                stores[0] = open_store(path, durability="none")
    stores[0].close()
    with open_store(path, durability="commit") as store:  # other options are refused while anything is left open
        in_thread(store.incr, b"n")
        assert store.check() == []


def test_a_store_cannot_be_closed_inside_its_transaction_but_afterwards(path: Path) -> None:
    store = open_store(path, durability="none")
    with store.write() as txn:
        txn.set(b"key", b"value")
        with pytest.raises(errors.NestedTransaction, match="leave the transaction"):
            store.close()
    assert store.get(b"key") == b"value"
    store.close()
    with open_store(path, durability="commit") as store:
        assert store.get(b"key") == b"value"


def test_a_transaction_inside_another_one_of_the_thread_is_refused(path: Path) -> None:
    with open_store(path, durability="none") as store, open_store(path, durability="none") as same:
        for block in (store.read, store.write):
            for attempt in (lambda: store.get(b"key"), lambda: same.set(b"key", b"value"), same.check, store.sweep):
                with block(), pytest.raises(errors.NestedTransaction):
                    attempt()
        see_no_lock_held(store)


# -- the end of the interpreter ----------------------------------------------------------------------------------

USE = "while True: store.set(b'k', bytes(5000)); store.get(b'k'); list(store.scan())"
OPEN_AND_CLOSE = "while True: open_store(sys.argv[1], durability='none').close()"
WRITE = "with store.write() as txn: txn.set(b'k', b'v'); time.sleep(1000)"
READ = "with store.read() as txn: txn.get(b'k'); time.sleep(1000)"
FORK = "sys.exit(os.fork() and os.wait()[1])"


@pytest.mark.parametrize(
    ("doing", "ending"),
    [
        (USE, ""),
        (USE, "store.close()"),
        (USE, FORK),
        (OPEN_AND_CLOSE, ""),
        (OPEN_AND_CLOSE, FORK),
        (WRITE, ""),
        (READ, ""),
    ],
    ids=["using", "using, closed", "using, forked", "opening", "opening, forked", "inside write", "inside read"],
)
def test_the_interpreter_exits_whatever_daemon_threads_are_doing(path: Path, doing: str, ending: str) -> None:
    source = f"""
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from lmdbresults import errors, open_store
store = open_store(sys.argv[1], durability="none")
def work():
    try:
        {doing}
    except errors.StoreClosed: pass
for _ in range(3): threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
{ending}
"""
    done = run_script(source, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")
        assert store.check() == []


def test_a_store_can_be_used_by_exit_handlers(path: Path) -> None:
    source = """
import atexit, sys
atexit.register(lambda: print(store.get(b"key")))
from lmdbresults import open_store
atexit.register(lambda: store.set(b"key", b"value"))
store = open_store(sys.argv[1], durability="none")
"""
    done = run_script(source, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'value'\n", "")


# -- signals -----------------------------------------------------------------------------------------------------


unlucky = pytest.mark.skipif(
    "LMDBRESULTS_FULL" not in os.environ,
    reason="about one run in ten finds an instruction at which a lock stays held: run with LMDBRESULTS_FULL=1",
)


class Interruption(Exception):
    """What a signal handler raises, as for a time limit."""


@contextmanager
def alarms(handler: Callable[[], None]) -> Iterator[Callable[[float], None]]:
    """Yield a function that has the handler called in the midst of what follows, after so many seconds."""
    former = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def open_and_close(store: LMDBStore) -> None:
    open_store(f"{store.options.path}-2", durability="none").close()


def open_again_and_write(store: LMDBStore) -> None:
    """Have the file opened anew by a write, as after a fork."""
    store._environment.close()
    store.set(b"key", b"value")


def fork(store: LMDBStore) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while True:
        with suppress(Interruption):
            os.waitpid(pid, 0)
            return


def write_block(store: LMDBStore) -> None:
    with store.write() as txn:
        txn.set(b"one", txn.get(b"two") or b"")
        txn.set(b"two", os.urandom(10))


def read_block(store: LMDBStore) -> None:
    with store.read() as txn:
        txn.mget([b"one", b"two"])


#: What holds nothing even while the exception that has interrupted it is kept, as by a future.
HOLD_NOTHING = ("get", "set", "set large", "incr", "update")
OPERATIONS: dict[str, Callable[[LMDBStore], object]] = {
    "get": lambda store: store.get(b"large"),
    "set": lambda store: store.set(b"key", b"value", ttl=1e-9),
    "set large": lambda store: store.set(b"large", LARGE),
    "incr": lambda store: store.incr(b"n"),
    "update": lambda store: store.update(lambda txn: txn.set(b"key", LARGE)),
    "read block": read_block,
    "write block": write_block,
    "scan": lambda store: list(store.scan()),
    "sweep": lambda store: store.sweep(),
    "open and close": open_and_close,
    "open again": open_again_and_write,
    "fork": fork,
}


def use_in_handler(path: Path, operation: str, turns: int) -> int:
    """Run an operation, and others from a signal handler in its midst; return how often that was refused."""
    refused = []

    def handler() -> None:
        for other in ("get", "set", "read block", "write block", "open and close"):
            try:
                OPERATIONS[other](store)
            except errors.NestedTransaction:
                refused.append(other)

    chance = random.Random(1)
    with open_store(path, durability="none") as store, alarms(handler) as alarm:
        for _ in range(turns):
            alarm(chance.uniform(1e-6, 2e-4))
            OPERATIONS[operation](store)
        alarm(0)
        see_no_lock_held(store)
    return len(refused)


@unlucky
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_signal_handler_that_uses_the_store_is_served_or_told(path: Path, operation: str) -> None:
    refused = in_child(use_in_handler, path, operation, 200)
    if operation in ("set large", "write block"):
        assert refused


def fork_in_handler(path: Path, turns: int) -> None:
    """Close and open the file, which threads use meanwhile, and fork from a signal handler in the midst of that."""

    def use(number: int) -> None:
        store.set(b"%d" % (number % 10), b"value")
        assert store.get(b"%d" % (number % 10)) == b"value"

    chance = random.Random(1)
    with open_store(path, durability="none") as store, alarms(lambda: fork(store)) as alarm:
        with busy_threads(use, use):
            for _ in range(turns):
                alarm(chance.uniform(1e-6, 1e-3))
                for _ in range(20):
                    store._environment.close()
                    store.get(b"key")
            alarm(0)
        see_no_lock_held(store)


@unlucky
def test_a_signal_handler_may_fork_while_the_file_is_closed_and_opened(path: Path) -> None:
    in_child(fork_in_handler, path, 50)


def interrupt(path: Path, operation: str, turns: int) -> int:
    """Run an operation, and have a signal handler raise in its midst; return how often that happened."""

    def handler() -> None:
        raise Interruption

    chance, interrupted = random.Random(1), 0
    with open_store(path, durability="none") as store, alarms(handler) as alarm:
        for _ in range(turns):
            try:
                alarm(chance.uniform(1e-6, 3e-4))
                until = time.monotonic() + 0.01  # the exception is lost if it comes in a hook of the fork
                while time.monotonic() < until:
                    OPERATIONS[operation](store)
                alarm(0)
            except Interruption:
                interrupted += 1
                if operation in HOLD_NOTHING:
                    in_thread(store.set, b"from a thread", b"value")
                with suppress(errors.NestedTransaction):  # the exception may still hold a block open, but never hangs
                    store.set(b"from the handler of the exception", b"value")
            in_thread(store.get, b"key")
        see_no_lock_held(store)
    return interrupted


@unlucky
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_out_of_a_signal_handler_leaves_no_lock_held(path: Path, operation: str) -> None:
    assert in_child(interrupt, path, operation, 200 if operation == "fork" else 1500) > 10
    with open_store(path, durability="none") as store:
        see_no_lock_held(store)


def test_an_exception_that_comes_as_a_fork_ends_leaves_no_lock_held(path: Path) -> None:
    """The signal is there when the first hook after the fork begins; logging has had its own by then."""
    source = """
import concurrent.futures.thread, ctypes, faulthandler, functools, logging, os, signal, sys, threading
os.register_at_fork(after_in_parent=functools.partial(ctypes.CDLL(None)["raise"], signal.SIGALRM))
from lmdbresults import open_store
def handler(number, frame): raise TimeoutError
signal.signal(signal.SIGALRM, handler)
sys.unraisablehook = lambda _: print("interrupted")
faulthandler.dump_traceback_later(20, exit=True)
with open_store(sys.argv[1], durability="none") as store:
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    thread = threading.Thread(target=store.set, args=(b"key", b"value"))
    thread.start()
    thread.join()
    print(store.get(b"key"))
"""
    done = run_script(source, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nb'value'\n", "")


def inject(path: Path, injections: int) -> int:
    """Have a thread use the store and raise in its midst, from this one; return how often it got round to its work."""

    def use() -> None:
        while True:
            try:
                write_block(store)
                read_block(store)
                store.set(b"large", LARGE)
                rounds.append(1)
            except Interruption:
                store.incr(b"interrupted")

    threading.excepthook = lambda _: None  # the exception may also come outside of `try`: that ends the thread
    rounds: list[int] = []
    pauses = random.Random(1)
    with open_store(path, durability="none") as store:
        while injections:
            thread = threading.Thread(target=use, daemon=True)
            thread.start()
            while thread.is_alive() and injections:
                injections -= 1
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interruption))
                thread.join(pauses.uniform(0, 2e-3))
            while thread.is_alive():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
                thread.join(0.01)
        see_no_lock_held(store)
    return len(rounds)


@unlucky
def test_an_exception_that_another_thread_injects_leaves_no_lock_held(path: Path) -> None:
    assert in_child(inject, path, 2000) > 10
