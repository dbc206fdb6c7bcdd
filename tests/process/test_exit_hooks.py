"""What the processes of multiprocessing have written is covered by a checkpoint when they have ended."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import util
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.process import exit_hooks as exits
from tests.support.covering import LONG, covered, last_commit
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LMDBStore]:
    """A store that is only read here, so that this process makes no checkpoints."""
    open_store(tmp_path / "results.lmdb").close()
    with open_store(tmp_path / "results.lmdb", checkpoint_interval=LONG) as store:
        yield store


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def context(request: pytest.FixtureRequest) -> BaseContext:
    return multiprocessing.get_context(request.param)


def write(path: str, key: bytes = b"key") -> None:
    open_store(path, checkpoint_interval=LONG).set(key, b"value")


def write_and_fail(path: str) -> None:
    write(path)
    raise SystemExit(3)


def write_at_the_end(path: str) -> None:
    util.Finalize(None, write, args=(path, b"late"), exitpriority=-500)
    write(path)


def write_from_a_child(path: str) -> None:
    write(path, b"parent")
    run(multiprocessing.get_context("fork"), write, path)


def count_finalizers(path: str, answer: "multiprocessing.SimpleQueue[int]") -> None:
    for _ in range(3):
        with open_store(path) as store:
            store.set(b"key", b"value")
        write(path)
    priorities = [priority for priority, _ in util._finalizer_registry]  # type: ignore[attr-defined]
    answer.put(priorities.count(exits._LAST))


def run(context: BaseContext, work: object, *args: object) -> int | None:
    process = context.Process(target=work, args=args)  # type: ignore[attr-defined]
    process.start()
    process.join(PATIENCE)
    code: int | None = process.exitcode
    return code


def is_all_covered(store: LMDBStore, *keys: bytes) -> bool:
    assert sorted(key for key, _ in store.scan()) == sorted(keys)
    return covered(store) == last_commit(store)


def test_a_process_that_has_opened_a_store_covers_what_it_has_written(store: LMDBStore, context: BaseContext) -> None:
    assert run(context, write, store.options.path) == 0
    assert is_all_covered(store, b"key")


def test_a_process_to_which_a_store_has_travelled_does_too(store: LMDBStore, context: BaseContext) -> None:
    assert run(context, store.set, b"key", b"value") == 0
    assert is_all_covered(store, b"key")


def test_a_process_that_fails_does_too(store: LMDBStore, context: BaseContext) -> None:
    assert run(context, write_and_fail, store.options.path) == 3
    assert is_all_covered(store, b"key")


def test_the_processes_of_an_executor_do_too(store: LMDBStore, context: BaseContext) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(write, [store.options.path] * 3, [b"1", b"2", b"3"]))
    assert is_all_covered(store, b"1", b"2", b"3")


def test_those_of_a_pool_that_may_end_do_too(store: LMDBStore, context: BaseContext) -> None:
    pool = context.Pool(2)
    pool.starmap(write, [(store.options.path, b"%d" % number) for number in range(3)])
    pool.close()
    pool.join()
    assert is_all_covered(store, b"0", b"1", b"2")


def test_what_is_written_while_a_process_ends_is_covered(store: LMDBStore, context: BaseContext) -> None:
    assert run(context, write_at_the_end, store.options.path) == 0
    assert is_all_covered(store, b"key", b"late")


def test_a_process_and_its_child_are_covered(store: LMDBStore, context: BaseContext) -> None:
    assert run(context, write_from_a_child, store.options.path) == 0
    assert is_all_covered(store, b"key", b"parent")


def test_multiprocessing_is_told_once_however_often_a_file_is_opened(store: LMDBStore, context: BaseContext) -> None:
    answer = context.SimpleQueue()
    assert run(context, count_finalizers, store.options.path, answer) == 0
    assert answer.get() == 1


def test_multiprocessing_is_not_imported_for_this(store: LMDBStore) -> None:
    source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1]).get(b'key'); print(*sys.modules)"
    done = run_script(source, store.options.path)
    assert done.stderr == ""
    assert "multiprocessing" not in done.stdout
