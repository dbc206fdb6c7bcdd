"""The backend in one LMDB file: opened by path or URL, shared by threads and processes."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import App, Signature
from lmdbresults.backends import DisabledBackend, LMDBBackend, StoreBackend, open_backend
from lmdbresults.errors import ConfigurationError, DecodeError, OpenError, StoreClosed, UnknownOption
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock, MemoryStore
from lmdbresults.testing.samples import in_threads
from tests.support.plain import opened
from tests.support.processes import FORKS_WITH_THREADS, child, in_child, in_children

interface = pytest.mark.interface

forks = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


class Queue(App):
    """An app with a queue of its own, which goes where the app goes."""

    def __init__(self, sent: list[str]) -> None:
        super().__init__({"result_expires": 60})
        self.sent = sent

    def dispatch(self, signature: Signature, args: Any = ()) -> None:
        self.sent.append(signature.task)


# -- opening ---------------------------------------------------------------------------------------------------------


@interface("open_backend")
@pytest.mark.parametrize("form", [str, Path, "lmdb://{}".format, "lmdb://{}?durability=none&max_size=8MiB".format])
def test_a_path_or_a_url_opens_a_backend(path, form):
    with opened(form(path)) as backend:
        assert type(backend) is LMDBBackend
        backend.mark_as_done("id", 42)
    with opened(path) as backend:
        assert AsyncResult("id", backend).get(timeout=0) == 42


@interface("open_backend", "DisabledBackend")
def test_disabled_opens_a_backend_that_stores_nothing():
    assert type(open_backend("disabled://")) is DisabledBackend


@interface("open_backend", "constructor")
def test_options_of_backend_and_store_are_passed_on(path):
    app = App()
    options = {"serializer": "msgpack", "accept": ["msgpack"], "expires": 5.5, "expires_type": int}
    options.update(max_cached_results=7, max_decoded_bytes=1000)
    with opened(path, app=app, **options, max_size=1 << 24) as backend:
        assert pickle.loads(pickle.dumps(backend)).codec.max_bytes == backend.codec.max_bytes == 1000
        assert (backend.app, backend.serializer, backend.expires) == (app, "msgpack", 5)
        assert backend.accept == {"application/x-msgpack"}
        assert backend.store.stats().max_size == 1 << 24
        assert app.backend is backend


@interface("open_backend")
@pytest.mark.parametrize(
    ("where", "options", "error"),
    [
        ("results.lmdb", {"colour": "blue"}, UnknownOption),
        ("disabled://", {"colour": "blue"}, UnknownOption),
        ("lmdb://results.lmdb?colour=blue", {}, UnknownOption),
        ("http://localhost", {}, ConfigurationError),
        ("no/such/folder/results.lmdb", {}, OpenError),
    ],
)
def test_a_failed_open_does_not_change_the_app(tmp_path, monkeypatch, where, options, error):
    monkeypatch.chdir(tmp_path)
    app = App()
    with pytest.raises(error):
        open_backend(where, app=app, **options)
    assert app.backend is None
    assert os.listdir(tmp_path) == []


@interface("constructor", "prepare_expires")
@pytest.mark.parametrize(("expires", "after", "state"), [(60, 59, "SUCCESS"), (60, 61, "PENDING"), (0, 1e9, "SUCCESS")])
def test_a_result_expires_as_the_backend_says(path, clock, expires, after, state):
    with opened(path, expires=expires, clock=clock) as backend:
        backend.mark_as_done("id", 42)
        clock.advance(after)
        assert backend.get_state("id") == state


@interface("cleanup")
def test_a_backend_over_a_closed_store_raises_store_closed():
    backend = StoreBackend(store=MemoryStore())
    backend.process_cleanup()
    with pytest.raises(StoreClosed, match="Open it again"):
        backend.get_result("id")


@interface("cleanup")
def test_a_with_block_closes_the_backend_at_its_end(path):
    with open_backend(path, durability="none") as backend:
        backend.store_result("id", 1, states.SUCCESS)
        store = backend.store
    with pytest.raises(StoreClosed):
        store.get(b"key")
    assert backend.get_result("id") == 1
    backend.close()
    backend.close()


@interface("encode, decode", "App: conf")
def test_a_result_is_not_decompressed_beyond_the_limit_of_the_app(path):
    with opened(path, app=App(result_compression="zlib", max_decoded_bytes=1000)) as backend:
        backend.store_result("small", "x" * 900, states.SUCCESS)
        backend.store_result("large", "x" * 1100, states.SUCCESS)
        assert backend.get_result("small") == "x" * 900
        with pytest.raises(DecodeError, match="max_decoded_bytes"):
            backend.get_result("large")


@interface("as_uri")
def test_as_uri_is_the_url_that_opened_the_backend(path):
    with opened(f"lmdb://{path}") as backend:
        assert backend.as_uri() == backend.as_uri(include_password=True) == f"lmdb://{path}"


# -- late duplicates -------------------------------------------------------------------------------------------------


class Announcing(App):
    """Says when a result is encoded, right before it is stored."""

    def __init__(self, announce: Callable[[], Any]) -> None:
        super().__init__()
        self._announce = announce

    def now(self) -> Any:
        self._announce()
        return super().now()


def fail_late(path: str, go: int, say: int) -> None:
    with opened(path, app=Announcing(lambda: os.write(say, b"encoded"))) as backend:
        os.write(say, b"opened")
        os.read(go, 1)
        backend.mark_as_failure("id", ValueError("late"))


@interface("store_result")
@forks
def test_a_success_that_another_process_commits_meanwhile_is_not_overwritten(path):
    """The failure is decided upon, encoded and waiting for the write lock, when the success is committed."""
    (go, let_go), (said, say) = os.pipe(), os.pipe()
    with opened(path) as backend, child(fail_late, path, go, say) as late:
        backend.mark_as_done("other", 42)
        success = backend.get(backend.get_key_for_task("other"))
        assert os.read(said, 10) == b"opened"
        with backend.store.write() as txn:
            os.write(let_go, b".")
            assert os.read(said, 10) == b"encoded"
            txn.set(backend.get_key_for_task("id"), success)
        late.join()
        assert (backend.get_state("id"), backend.get_result("id")) == (states.SUCCESS, 42)
    for end in (go, let_go, said, say):
        os.close(end)


def store_all(number: int, path: str, ids: list[str], pipes: list[tuple[int, int]]) -> None:
    """Store each result at the moment at which the other process stores its own."""
    with opened(path) as backend:
        for id_ in ids:
            os.write(pipes[number][1], b".")
            os.read(pipes[1 - number][0], 1)
            if number:
                backend.mark_as_done(id_, number)
            else:
                backend.mark_as_failure(id_, ValueError("late"))


@interface("store_result", "threads, forks")
@forks
def test_a_success_stays_when_two_processes_store_at_once(path):
    ids = [str(number) for number in range(500)]
    pipes = [os.pipe(), os.pipe()]
    in_children(2, store_all, path, ids, pipes)
    for end in (*pipes[0], *pipes[1]):
        os.close(end)
    with opened(path) as backend:
        assert {id_: meta["status"] for id_, meta in backend.get_many(ids, timeout=0)} == dict.fromkeys(ids, "SUCCESS")


# -- threads, forks, other processes ---------------------------------------------------------------------------------


@interface("threads, forks")
def test_threads_share_a_backend(backend):
    numbers = iter(range(1000))

    def work() -> list[str]:
        mine = []
        for number in numbers:
            backend.mark_as_done(str(number), number)
            mine.append(str(number))
            assert backend.get_result(str(number)) == number
        return mine

    backend._cache.limit = 10
    done = [id_ for ids in in_threads(4, work) for id_ in ids]
    assert len(done) == 1000
    assert {meta["result"] for _, meta in backend.get_many(done, timeout=0)} == set(range(1000))


@interface("threads, forks")
@forks
def test_parent_and_child_use_a_backend_after_a_fork(backend):
    backend.mark_as_done("before", 1)

    def work() -> Any:
        backend.mark_as_done("in the child", 2)
        return backend.get_result("before")

    assert in_child(work) == 1
    assert backend.get_result("in the child") == 2
    backend.mark_as_done("after", 3)
    assert backend.get_result("after") == 3


def tell(backend: LMDBBackend, handle: AsyncResult, answers: Any) -> None:
    """Run by a new interpreter, which has nothing but what was pickled."""
    backend.mark_as_done("spawned", os.getpid())
    answers.put((backend.expires, sorted(backend.accept), handle.get(timeout=0), os.getpid()))


@interface("pickling", "threads, forks")
def test_a_backend_pickles_to_a_new_interpreter_with_its_settings(path):
    context = multiprocessing.get_context("spawn")
    with opened(path, expires=30, accept=["json"]) as backend:
        backend.mark_as_done("id", 42)
        answers = context.SimpleQueue()
        process = context.Process(target=tell, args=(backend, AsyncResult("id", backend), answers))
        process.start()
        process.join(240)
        assert process.exitcode == 0
        expires, accept, result, pid = answers.get()
        assert (expires, accept, result) == (30, ["application/json"], 42)
        assert backend.get_result("spawned") == pid != os.getpid()


@interface("pickling")
def test_an_unpickled_backend_has_the_same_settings_and_its_own_store(path, clock):
    app = App({"result_cache_max": 3, "result_expires": None})
    options = {"serializer": "msgpack", "accept": ["msgpack", "yaml"], "clock": clock}
    with opened(f"lmdb://{path}?max_size=8MiB", app=app, **options) as backend:
        copy = pickle.loads(pickle.dumps(backend))
        assert type(copy) is LMDBBackend
        for name in ("serializer", "accept", "url"):
            assert getattr(copy, name) == getattr(backend, name)
        assert (copy._cache.limit, bool(copy.expires), copy.app.conf) == (3, False, app.conf)
        assert copy.app.backend is copy
        assert copy.store is not backend.store
        assert copy.store.options == backend.store.options
        copy.mark_as_done("id", 42)
        copy.process_cleanup()
        assert backend.get_result("id") == 42


@interface("pickling", "cleanup")
def test_a_relative_path_stays_the_same_file_when_the_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with opened("lmdb://results.lmdb") as backend:
        backend.mark_as_done("id", 42)
        pickled = pickle.dumps(backend)
        monkeypatch.chdir(tmp_path / "elsewhere")
        backend.process_cleanup()
        assert backend.get_result("id") == 42
        copy = pickle.loads(pickled)
        assert copy.get_result("id") == 42
        copy.process_cleanup()
    assert os.listdir(tmp_path / "elsewhere") == []


@interface("pickling", "App: dispatch")
def test_an_app_pickles_with_the_backend_without_its_tasks(path):
    app = Queue(["first"])
    app.task(lambda: None, name="cannot be pickled")
    with opened(path, app=app) as backend:
        copy = pickle.loads(pickle.dumps(backend))
        copy.app.send(copy.app.signature("second"))
        copy.process_cleanup()
    assert (type(copy.app), copy.app.sent, copy.expires) == (Queue, ["first", "second"], 60)
    assert "cannot be pickled" not in copy.app.tasks


@interface("pickling")
def test_a_backend_over_a_memory_store_cannot_be_pickled():
    with pytest.raises(TypeError, match="lives in one process"):
        pickle.dumps(StoreBackend(store=MemoryStore(clock=FakeClock())))
