"""A store that is interrupted: by close() in another thread, by the exit of the interpreter, by signal handlers."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_store
from lmdbresults.process.fork_gate import gate
from tests.conftest import PROFILE
from tests.support.interrupting import Interruption, count_points, interrupted, spread
from tests.support.processes import FORKS_WITH_THREADS, busy_threads, in_child, in_thread, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

LARGE = os.urandom(200_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.lmdb"


def assert_no_lock_held(store: LMDBStore) -> None:
    """Any thread and any process can still write, and the file can be closed."""
    in_thread(store.set, b"from a thread", b"value")
    in_child(store.set, b"from a child", b"value")
    in_thread(open_store(store.options.path, durability="none").close)
    assert store.check() == []


# -- closing -----------------------------------------------------------------------------------------------------


def test_a_thread_that_uses_a_store_while_another_closes_it_succeeds_or_gets_store_closed(path: Path) -> None:
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


def test_a_store_cannot_be_closed_inside_its_transaction(path: Path) -> None:
    store = open_store(path, durability="none")
    with store.write() as txn:
        txn.set(b"key", b"value")
        with pytest.raises(errors.NestedTransaction, match="leave the transaction"):
            store.close()
    assert store.get(b"key") == b"value"
    store.close()
    with open_store(path, durability="commit") as store:
        assert store.get(b"key") == b"value"


def test_a_transaction_inside_another_of_the_same_thread_is_refused(path: Path) -> None:
    with open_store(path, durability="none") as store, open_store(path, durability="none") as same:
        for block in (store.read, store.write):
            for attempt in (lambda: store.get(b"key"), lambda: same.set(b"key", b"value"), same.check, store.sweep):
                with block(), pytest.raises(errors.NestedTransaction):
                    attempt()
        assert_no_lock_held(store)


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


def test_exit_handlers_can_use_a_store(path: Path) -> None:
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

#: At how many instructions an operation is interrupted at most; at more in the nightly run.
RAISING, USING = (1000, 100) if PROFILE == "nightly" else (120, 15)
#: Since 3.12 Python looks for signals at the beginning of functions and at jumps back only: of the signals that come
#: in a short operation, many are handled after it.
HANDLES_ANYWHERE = sys.version_info < (3, 12)
FEWEST = 80 if HANDLES_ANYWHERE else 10


def open_and_close(store: LMDBStore) -> None:
    open_store(f"{store.options.path}-2", durability="none").close()


def open_again_and_write(store: LMDBStore) -> None:
    """Have the file opened again by a write, as after a fork."""
    gate.exclusive(store._environment.file.close)
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


def set_and_sweep_along(store: LMDBStore) -> None:
    store._scope.keeper.owed = 100  # so that the hand moves each time
    store.set(b"key", b"value", ttl=1e-9)


OPERATIONS: dict[str, Callable[[LMDBStore], object]] = {
    "get": lambda store: store.get(b"large"),
    "set": lambda store: store.set(b"key", b"value"),
    "set and sweep along": set_and_sweep_along,
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


def points_of(store: LMDBStore, operation: str, most: int) -> list[int]:
    for _ in range(2):  # the first time does what is done once
        OPERATIONS[operation](store)
    return spread(count_points(lambda: OPERATIONS[operation](store)), most)


def interrupt(path: Path, operation: str) -> int:
    """Have a signal handler raise at the instructions of an operation; return how often the exception came out."""

    def handler() -> None:
        raise Interruption

    kept: list[Interruption] = []
    with open_store(path, durability="none") as store:
        points = points_of(store, operation, RAISING)
        for point in points:
            try:
                with interrupted(point, handler):
                    OPERATIONS[operation](store)
            except Interruption as error:
                kept.append(error)  # with its traceback, as a future keeps it
            in_thread(store.set, b"from a thread", b"value")
            store.set(b"from here", b"value")
        count = len(kept)
        kept.clear()
        assert_no_lock_held(store)
    return count if operation != "fork" else len(points)  # exceptions in the hooks of a fork are only printed


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_out_of_a_signal_handler_leaves_no_lock_held(path: Path, operation: str) -> None:
    assert in_child(interrupt, path, operation) >= FEWEST
    with open_store(path, durability="none") as store:
        assert_no_lock_held(store)


def use_in_handler(path: Path, operation: str) -> int:
    """Use the store in a signal handler at the instructions of an operation; return how often that was refused."""
    refused = []

    def handler() -> None:
        for other in ("get", "set", "read block", "write block", "open and close"):
            try:
                OPERATIONS[other](store)
            except errors.NestedTransaction:
                refused.append(other)

    with open_store(path, durability="none") as store:
        for point in points_of(store, operation, USING):
            with interrupted(point, handler):
                OPERATIONS[operation](store)
        assert_no_lock_held(store)
    return len(refused)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_signal_handler_can_use_the_store_or_gets_nested_transaction(path: Path, operation: str) -> None:
    refused = in_child(use_in_handler, path, operation)
    if operation == "set large" or (operation == "write block" and HANDLES_ANYWHERE):
        assert refused


def fork_in_handler(path: Path) -> None:
    with open_store(path, durability="none") as store:
        for point in points_of(store, "open again", USING):
            with interrupted(point, lambda: fork(store)):
                OPERATIONS["open again"](store)
        assert_no_lock_held(store)


def test_a_signal_handler_can_fork_while_the_file_is_closed_and_opened(path: Path) -> None:
    in_child(fork_in_handler, path)


def test_an_exception_at_the_end_of_a_fork_leaves_no_lock_held(path: Path) -> None:
    """The signal is there when the first hook after the fork begins; logging has had its own by then."""
    source = """
import concurrent.futures.thread, ctypes, faulthandler, functools, logging, os, signal, sys, threading
os.register_at_fork(after_in_parent=functools.partial(ctypes.CDLL(None)["raise"], signal.SIGALRM))
from lmdbresults import open_store
def handler(number, frame): raise TimeoutError
signal.signal(signal.SIGALRM, handler)
sys.unraisablehook = lambda _: print("interrupted")
faulthandler.dump_traceback_later(240, exit=True)
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
