"""Processes, threads and greenlets that share a store: growth, full reader tables, killed processes."""

import importlib.util
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, StoreFull, errors, open_store
from tests.support.processes import FORKS_WITH_THREADS, child, in_children, run_script
from tests.support.stores import sound_store

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LMDBStore]:
    with sound_store(tmp_path / "results.lmdb") as store:
        yield store


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_store_can_be_passed_to_processes_of_every_start_method(store: LMDBStore, method: str) -> None:
    source = """
import multiprocessing, sys
from lmdbresults import open_store
context = multiprocessing.get_context(sys.argv[1])
with open_store(sys.argv[2], durability="none", global_keyprefix="app") as store:
    processes = [context.Process(target=store.incr, args=(b"count", by)) for by in (1, 10, 100)]
    for process in processes: process.start()
    for process in processes: process.join(240)
    print(store.get(b"count"), [process.exitcode for process in processes])
"""
    done = run_script(source, method, store.options.path)
    assert (done.stdout, done.stderr) == ("b'111' [0, 0, 0]\n", "")


def test_a_pickled_store_opens_the_same_file_with_the_same_options(store: LMDBStore) -> None:
    with pickle.loads(pickle.dumps(store)) as copy:
        assert copy.options == store.options
        copy.set(b"key", b"value")
        assert store.get(b"key") == b"value"


# -- many at once ------------------------------------------------------------------------------------------------


def count_in_threads(_: int, path: str) -> None:
    with open_store(path, durability="none") as store:
        threads = [threading.Thread(target=lambda: [store.incr(b"n") for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_increments_of_many_threads_and_processes_add_up(store: LMDBStore) -> None:
    in_children(4, count_in_threads, store.options.path)
    assert store.get(b"n") == b"%d" % (4 * 4 * 50)


def write_much(number: int, path: Path, sizes: list[int]) -> list[bytes]:
    written = []
    with open_store(path, durability="none", max_size=sizes[number]) as store, suppress(StoreFull):
        for turn in range(60):
            key = b"%d:%d" % (number, turn)
            store.set(key, key * 20_000)
            written.append(key)
            assert store.get(key) == key * 20_000
            if turn % 10 == 0:
                with open_store(path, durability="none", max_size=sizes[number]) as again:
                    assert again.get(key) == key * 20_000
    return written


def test_a_file_grows_under_processes_of_any_max_size(tmp_path: Path) -> None:
    sizes = [1 << 20, 3 << 20, 16 << 20, 64 << 20, 1 << 30]
    written = in_children(len(sizes), write_much, tmp_path / "r.lmdb", sizes)
    assert len(written[-1]) == len(written[-2]) == 60
    with open_store(tmp_path / "r.lmdb", durability="none", max_size=1 << 20) as store:
        assert sorted(key for key, _ in store.scan()) == sorted(key for keys in written for key in keys)
        assert all(store.get(key) == key * 20_000 for keys in written for key in keys)
        assert store.check() == []


def test_the_death_of_a_writer_inside_a_transaction_undoes_it_and_blocks_no_other_writer(store: LMDBStore) -> None:
    ready, is_ready = os.pipe()

    def hold() -> None:
        with store.write() as txn:
            for number in range(1000):
                txn.set(b"half %d" % number, bytes(1000))
            os.write(is_ready, b"!")
            signal.pause()

    for _ in range(5):
        with child(hold) as writer:
            os.read(ready, 1)
            writer.kill()
        assert list(store.scan(b"half")) == []
        store.incr(b"turns")
    assert store.get(b"turns") == b"5"
    os.close(ready)
    os.close(is_ready)


READ_AND_WAIT = """
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability="none", max_readers=2) as store, store.read() as txn:
    txn.get(b"key")
    print("reading", flush=True)
    input()
"""


@contextmanager
def reader(path: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that is inside a read transaction. Unlike a fork, this leaves the file open here."""
    command = [sys.executable, "-c", READ_AND_WAIT, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        yield process
        process.kill()


def test_too_many_readers_is_an_error_until_a_slot_is_free_or_its_reader_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "r.lmdb")
    with open_store(path, durability="none", max_readers=2) as store:
        for end in (lambda process: process.kill(), lambda process: process.communicate("\n", timeout=240)):
            with reader(path), reader(path) as second:
                with pytest.raises(errors.TooManyReaders, match="max_readers=2") as caught:
                    store.get(b"key")
                assert path in str(caught.value)
                end(second)
                second.wait(240)
                assert store.get(b"key") is None


def test_processes_with_the_same_pid_in_two_namespaces_get_an_error(tmp_path: Path) -> None:
    """As in containers: LMDB identifies its readers by their process ids."""
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no permission to create a PID namespace")
    command = [*namespace, sys.executable, "-c"]
    opening = "import sys; from lmdbresults import open_store\ns = open_store(sys.argv[1], durability='none')"
    hold = f"{opening}\nprint(s.get(b'k')); input()"
    second = f"{opening}\ns.get(b'k')"
    path = str(tmp_path / "r.lmdb")
    with subprocess.Popen([*command, hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"None\n"
        done = subprocess.run([*command, second, path], capture_output=True, text=True, timeout=240, check=False)
        holder.communicate(b"\n", timeout=240)
    assert done.returncode == 1
    assert "LockUnavailable" in done.stderr
    assert "one PID namespace" in done.stderr


GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all(); import gevent; sleep = gevent.sleep",
    "eventlet": "import eventlet; eventlet.monkey_patch(); sleep = eventlet.sleep",
}
GREEN_WAIT = {
    "gevent": "gevent.joinall([gevent.spawn(use, number) for number in range(10)], raise_error=True)",
    "eventlet": "[each.wait() for each in [eventlet.spawn(use, number) for number in range(10)]]",
}


@pytest.mark.parametrize("kind", GREEN)
def test_greenlets_share_a_store(store: LMDBStore, kind: str) -> None:
    if importlib.util.find_spec(kind) is None:  # not imported here: eventlet warns of forks
        pytest.skip(f"{kind} is not installed")
    source = f"""
import warnings; warnings.simplefilter("ignore")
{GREEN[kind]}
import sys
from lmdbresults import open_store
with open_store(sys.argv[1], durability="none") as store:
    def use(number):
        for turn in range(50):
            store.incr(b"n")
            with store.write() as txn:
                before = int(txn.get(b"m") or 0)
                sleep(0)
                txn.set(b"m", b"%d" % (before + 1))
            with store.read() as txn:
                sleep(0)
                txn.get(b"n")
    {GREEN_WAIT[kind]}
    print(store.get(b"n"), store.get(b"m"), store.check())
"""
    done = run_script(source, store.options.path)
    assert (done.stdout, done.stderr) == ("b'500' b'500' []\n", "")
