"""kill -9 at every step of the end of a chord, for each kind of worker: the body runs with the right list.

Prints a table at the end. In the column "waiter" nothing is redelivered: a waiting process takes the chord over. These
tests are about dead processes, not about power failures.
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
#: Seconds within which a chord must end.
PATIENCE = 240.0
#: The ends of tasks that are one commit with their message have points of their own, which test_ends.py tries.
STEPS = POINTS[POINTS.index("part returns") :]
#: Before this point the chord is not claimed yet, and only the queue can redeliver the part.
CLAIMED = POINTS[POINTS.index("chord claimed") :]
#: Outcomes by fault point and kind of worker.
Table = dict[tuple[str, str], str]


def wait_for(condition: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> Any:
    """Return the value of a condition once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "this takes too long"
        meanwhile()
        time.sleep(0.01)
    return result


@pytest.fixture(scope="module")
def table(request: Any) -> Iterator[Table]:
    cells: Table = {}
    yield cells
    kinds = sorted({kind for _, kind in cells})
    lines = [f"\n{'kill -9 at':14}" + "".join(f"{kind:>26}" for kind in kinds)]
    lines += [f"{point:14}" + "".join(f"{cells.get((point, kind), '-'):>26}" for kind in kinds) for point in STEPS]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))


@pytest.mark.parametrize("point", STEPS)
def test_a_chord_survives_a_killed_plain_worker(tmp_path: Path, point: str, table: Table) -> None:
    app = QueueApp(tmp_path)
    pool = Pool(tmp_path, point)
    try:
        app.chord([app.signature("same", (n,)) for n in range(PARTS)], app.signature("gather").set(task_id="body"))
        wait_for(lambda: (tmp_path / "flag").exists() and app.results.get_state("body") == "SUCCESS", pool.replace_dead)
        wait_for(lambda: pool.replaced, pool.replace_dead)  # the flag is set just before the kill
        wait_for(lambda: not leftovers(app.store), lambda: (pool.replace_dead(), app.results.cleanup()))
    finally:
        pool.close()
    assert_right(app, point, "plain", table)


@pytest.mark.parametrize("point", CLAIMED)
def test_a_waiting_client_takes_over_the_chord_of_a_killed_worker(tmp_path: Path, point: str, table: Table) -> None:
    app = QueueApp(tmp_path)
    pool = Pool(tmp_path, point, size=1, redelivers=False)
    try:
        result = app.chord([app.signature("same", (n,)) for n in range(PARTS)], app.signature("gather"))
        wait_for(lambda: pool.replaced, pool.replace_dead)
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


@pytest.mark.parametrize("point", STEPS)
@pytest.mark.parametrize(
    "kills_all",
    [False, pytest.param(True, marks=pytest.mark.skipif(not FULL, reason="the long form: LMDBRESULTS_FULL=1"))],
    ids=["child", "worker"],
)
def test_a_chord_survives_a_killed_celery_worker(
    tmp_path: Path, redis_broker: str, point: str, kills_all: bool, table: Table
) -> None:
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
        wait_for(lambda: app.backend.store.get(key))  # this read does not recover chords
        wait_for(lambda: not leftovers(app.backend.store))
        assert app.AsyncResult("body").get(timeout=0) == [[0, index] for index in range(PARTS)]
        assert app.backend.store.check() == []
    finally:
        worker.kill()
        app.backend.store.close()
        app.close()
    table[point, "Celery, worker killed" if kills_all else "Celery, child killed"] = "right"
