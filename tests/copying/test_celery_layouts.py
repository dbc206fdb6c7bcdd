"""To and from the layouts of Celery's backends: its stock backends read what lmdbresults writes, and the reverse."""

from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.app.task import Context

from lmdbresults.copying import copy, open_source, verify
from lmdbresults.errors import ChordsInFlight, StoreError
from tests.support.celery_needed import ALL_CONTENT, SERIALIZERS
from tests.support.redis_servers import RedisServer, free_port, redis_server, until

#: Ids of results of all kinds.
IDS = ["done", "failed", "running", "extended"]
Make = Callable[..., Any]


def fill(app: Any) -> None:
    """Store results of all kinds, and a group."""
    backend = app.backend
    request = Context(
        id="extended", task="tasks.add", args=[1, {"a": 2}], kwargs={"b": 1}, hostname="w", retries=2, group="g",
        delivery_info={"routing_key": "q"}, parent_id="p", children=[app.AsyncResult("done")],
    )  # fmt: skip
    backend.store_result(
        "done", {"text": "äö\udc80" if app.conf.result_serializer == "json" else "äö", "n": 1.5}, "SUCCESS"
    )
    backend.store_result("failed", ValueError("no", 1), "FAILURE", traceback="Traceback:\n  ...")
    backend.store_result("running", {"done": 1, "of": 2}, "PROGRESS")
    app.conf.result_extended = True
    backend.store_result("extended", [1, 2], "SUCCESS", request=request)
    app.GroupResult("g", [app.AsyncResult("done"), app.GroupResult("h", [app.AsyncResult("failed")])]).save()


def seen(app: Any) -> list[Any]:
    """Return what an application reads of that."""
    metas = [app.backend.get_task_meta(id_) for id_ in IDS]
    for meta in metas:
        meta["result"] = repr(meta["result"])
        meta.pop("task_id")
        meta["date_done"] = meta["date_done"] and str(meta["date_done"]).replace(" ", "T").removesuffix("+00:00")
        meta["children"] = meta["children"] or []
    return [metas, repr(app.GroupResult.restore("g").as_tuple())]


def test_every_result_of_celerys_redis_is_copied_though_the_server_restarts_meanwhile(tmp_path: Path, source: Make):
    """A cursor means nothing to another process of the server, which would leave results out."""
    port, settings, ids = free_port(), ("--appendonly", "yes"), {b"%d" % number for number in range(4000)}
    with redis_server(tmp_path, *settings, port=port) as server:
        documents = {b"celery-task-meta-%b" % id_: b'{"status": "SUCCESS", "result": 1}' for id_ in ids}
        server.call("MSET", *chain.from_iterable(documents.items()))
        batches = source(server.url, layout="celery").batches(500)
        found = {item.id for item in next(batches)}
        server.process.terminate()  # so that all is on disk
        server.process.wait()
    with redis_server(tmp_path, *settings, port=port) as server:
        until(lambda: _has_loaded(server), "the server does not load its data")
        found.update(item.id for batch in batches for item in batch)
    assert found == ids


def _has_loaded(server: RedisServer) -> bool:
    with suppress(redis.exceptions.BusyLoadingError):
        return bool(server.call("PING"))
    return False


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celerys_redis_backend_reads_a_copy_and_a_copy_of_it_comes_back(
    serializer: str, tmp_path: Path, database: str, client: redis.Redis, celery: Make, source: Make, target: Make
):
    url = f"lmdb://{tmp_path}/here.lmdb?durability=none"
    app = celery(url, serializer)
    fill(app)
    here, there = source(url), target(database, layout="celery", accept=ALL_CONTENT)
    assert copy(here, there).problems == []
    assert list(verify(here, there, accept=ALL_CONTENT)) == []
    stock = celery(database.replace("unix://", "redis+socket://"), serializer)
    assert seen(stock) == seen(app)
    left = client.pttl("celery-task-meta-done") / 1000
    assert left == pytest.approx(app.backend.store.ttl(b"celery-task-meta-done"), abs=1.0)

    back_url = f"lmdb://{tmp_path}/back.lmdb?durability=none"
    back = celery(back_url, serializer)
    copy(source(database, layout="celery", accept=ALL_CONTENT), target(back_url))
    assert seen(back) == seen(app)


def test_a_file_that_is_not_a_database_of_celery_is_refused(tmp_path: Path):
    for content in (b"not a database" * 100, b""):
        (tmp_path / "celery.db").write_bytes(content)
        with pytest.raises(StoreError, match=r"celery\.db (cannot be read: file is not a database|has no table)"):
            open_source(f"db+sqlite:///{tmp_path}/celery.db")


@pytest.mark.parametrize("kind", ["file", "db+sqlite"])
def test_results_of_celerys_files_and_of_its_sqlite_database_are_read(
    kind: str, tmp_path: Path, celery: Make, source: Make, target: Make
):
    url = f"file://{tmp_path}" if kind == "file" else f"db+sqlite:///{tmp_path}/celery.db"
    stock = celery(url, result_extended=True)
    fill(stock)
    here = celery(f"lmdb://{tmp_path}/here.lmdb?durability=none")
    assert copy(source(url), target(f"lmdb://{tmp_path}/here.lmdb?durability=none")).problems == []
    ours, theirs = seen(here), seen(stock)
    for meta, other in zip(ours[0], theirs[0], strict=True):
        assert {name: other.get(name) for name in meta if name not in NOT_IN_DATABASES or kind == "file"} == {
            name: meta[name] for name in meta if name not in NOT_IN_DATABASES or kind == "file"
        }
    assert ours[1] == theirs[1]
    assert here.backend.store.ttl(b"celery-task-meta-done") == pytest.approx(86400, abs=60)


def test_a_file_of_a_result_that_cannot_be_read_is_reported(tmp_path: Path, source: Make, target: Make):
    (tmp_path / "celery-task-meta-unreadable").mkdir()
    summary = copy(source(f"file://{tmp_path}"), target(f"lmdb://{tmp_path}/here.lmdb?durability=none"))
    (problem,) = summary.problems
    assert problem.startswith("result unreadable: ")


#: What Celery's database does not keep.
NOT_IN_DATABASES = {"group_id", "parent_id"}


def test_pickled_results_are_decoded_only_where_pickle_is_accepted(
    tmp_path: Path, database: str, client: redis.Redis, celery: Make, source: Make, target: Make
):
    url = f"lmdb://{tmp_path}/here.lmdb?durability=none"
    celery(url, "pickle").backend.store_result("done", {1, 2}, "SUCCESS")
    summary = copy(source(url), target(database, layout="celery"))
    (problem,) = summary.problems
    assert problem.startswith("result done: The result is application/x-python-serialize, and only")
    assert client.keys() == []


def test_chords_in_flight_do_not_move_to_celerys_layout(
    tmp_path: Path, database: str, client: redis.Redis, celery: Make, source: Make, target: Make
):
    url = f"lmdb://{tmp_path}/here.lmdb?durability=none"
    app = celery(url)
    app.backend.store_result("done", 1, "SUCCESS")
    app.backend.apply_chord(("the-chord", [app.AsyncResult(each) for each in "ab"]), app.signature("body"))
    there = target(database, layout="celery")
    with pytest.raises(ChordsInFlight, match=r"--skip-chords.*\n  chord the-chord: 0 of 2 parts have returned"):
        copy(source(url), there)
    assert client.keys() == []
    summary = copy(source(url), there, skip_chords=True)
    assert summary.skipped_chords == ["chord the-chord: 0 of 2 parts have returned"]
    assert client.keys() == [b"celery-task-meta-done"]


def test_what_a_worker_stores_during_a_copy_is_not_overwritten(
    tmp_path: Path, database: str, client: redis.Redis, celery: Make, source: Make, target: Make
):
    url = f"lmdb://{tmp_path}/here.lmdb?durability=none"
    celery(url).backend.store_result("done", "old", "FAILURE")
    there, key = target(database, layout="celery"), "celery-task-meta-done"
    newer = b'{"status": "SUCCESS", "result": 2, "date_done": "2999-01-01T00:00:00+00:00", "task_id": "done"}'
    values, read = there._values, []

    def read_and_let_a_worker_store(keys: list[bytes]) -> Any:
        found = values(keys)
        if not read:
            read.append(client.set(key, newer))
        return found

    there._values = read_and_let_a_worker_store
    assert copy(source(url), there).merged["result"].kept == 1
    assert client.get(key) == newer
