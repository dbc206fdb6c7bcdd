"""kill -9 at every step of the end of a chord, by every kind of worker: the body runs, with the right list.

A table of all cells is printed at the end. What is not delivered again ("waiter") is taken over by a process that does
nothing but wait. This is about processes that die, not about power loss.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults.faultpoints import POINTS
from lmdbresults.testing import DIE_AT, DIE_FLAG
from tests.stress.deliveries import Pool, QueueApp
from tests.support.chord_keys import leftovers
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

FULL = os.environ.get("LMDBRESULTS_FULL") == "1"
PARTS = 6
#: Seconds after which a chord is taken never to end.
PATIENCE = 30.0
#: A part that dies before it is counted is nobody's but the queue's.
CLAIMED = POINTS[POINTS.index("chord claimed") :]
#: What came of a cell, by fault point and kind of worker.
Table = dict[tuple[str, str], str]


def wait_for(condition: Callable[[], Any], look_after: Callable[[], object] = lambda: None) -> Any:
    """Return what a condition returns once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "this takes too long"
        look_after()
        time.sleep(0.01)
    return result


@pytest.fixture(scope="module")
def table(request: Any) -> Iterator[Table]:
    cells: Table = {}
    yield cells
    kinds = sorted({kind for _, kind in cells})
    lines = [f"\n{'kill -9 at':14}" + "".join(f"{kind:>26}" for kind in kinds)]
    lines += [f"{point:14}" + "".join(f"{cells.get((point, kind), '-'):>26}" for kind in kinds) for point in POINTS]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))


@pytest.mark.parametrize("point", POINTS)
def test_plain_processes(tmp_path: Path, point: str, table: Table) -> None:
    app = QueueApp(tmp_path)
    pool = Pool(tmp_path, point)
    try:
        app.chord([app.signature("same", (n,)) for n in range(PARTS)], app.signature("gather").set(task_id="body"))
        wait_for(lambda: (tmp_path / "flag").exists() and app.results.get_state("body") == "SUCCESS", pool.look_after)
        wait_for(lambda: pool.replaced, pool.look_after)  # the flag comes just before the kill
        wait_for(lambda: not leftovers(app.store), lambda: (pool.look_after(), app.results.cleanup()))
    finally:
        pool.close()
    assert_right(app, point, "plain", table)


@pytest.mark.parametrize("point", CLAIMED)
def test_plain_processes_whose_queue_delivers_once_and_a_client_that_waits(
    tmp_path: Path, point: str, table: Table
) -> None:
    app = QueueApp(tmp_path)
    pool = Pool(tmp_path, point, size=1, redelivers=False)
    try:
        result = app.chord([app.signature("same", (n,)) for n in range(PARTS)], app.signature("gather"))
        wait_for(lambda: pool.replaced, pool.look_after)
        assert result.get(timeout=PATIENCE) == [*range(PARTS)]
        app.results.cleanup()
    finally:
        pool.close()
    assert_right(app, point, "plain, waiter", table, result.id)


def assert_right(app: QueueApp, point: str, kind: str, table: Table, body: str = "body") -> None:
    assert app.results.get_result(body) == [*range(PARTS)]
    assert leftovers(app.store) == []
    assert app.store.check() == []
    runs = app.runs()
    assert runs == 1 or (runs == 2 and point == "body sent")
    table[point, kind] = "right" if runs == 1 else "right, body ran twice"
    app.results.process_cleanup()


# -- Celery --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    "kills_all",
    [False, pytest.param(True, marks=pytest.mark.skipif(not FULL, reason="the long form: LMDBRESULTS_FULL=1"))],
    ids=["child", "worker"],
)
def test_celery(tmp_path: Path, redis_broker: str, point: str, kills_all: bool, table: Table) -> None:
    from tests.stress.celery_chords import make_chord, settings_with_redis
    from tests.support.celery_tasks import make_app
    from tests.support.celery_workers import Worker

    settings = settings_with_redis(tmp_path, redis_broker)
    app, flag = make_app(settings), tmp_path / "flag"

    def start() -> Worker:
        return Worker(tmp_path, settings, variables={DIE_AT: point, DIE_FLAG: str(flag)})

    worker = start()
    try:
        make_chord(app, 0, PARTS).apply_async(task_id="body")
        wait_for(flag.exists)
        if kills_all:
            worker.kill()
            worker = start()
        key = app.backend.get_key_for_task("body")
        wait_for(lambda: app.backend.store.get(key))  # reading this way takes nothing over
        wait_for(lambda: not leftovers(app.backend.store))
        assert app.AsyncResult("body").get(timeout=0) == [[0, index] for index in range(PARTS)]
        assert app.backend.store.check() == []
    finally:
        worker.kill()
        app.backend.store.close()
        app.close()
    table[point, "Celery, worker killed" if kills_all else "Celery, child killed"] = "right"
