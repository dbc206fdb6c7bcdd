"""Real workers, one for each pool that Celery has, and a client in another process: every kind of canvas."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, uuid
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult, GroupResult, result_from_tuple

from lmdbresults import open_store
from tests.support.celery_needed import CI, FULL
from tests.support.celery_tasks import (
    OwnError,
    add,
    echo,
    fail,
    progress,
    retry_until,
    sends_group,
    settings_for,
    total,
    wait_until,
)
from tests.support.celery_workers import PATIENCE, running_worker, wait_for
from tests.support.chord_keys import leftovers
from tests.support.processes import run_script

PATIENT: dict[str, float] = {"timeout": PATIENCE, "interval": 0.01}
POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]

#: How many results one worker stores in a row; all of them where there is time.
MANY = 10_000 if FULL or CI else 1_000


@pytest.fixture(scope="module", params=POOLS)
def client(request: Any, tmp_path_factory: Any) -> Iterator[Celery]:
    """The current application, with a worker of each pool at its service."""
    pool = request.param
    if pool in ("gevent", "eventlet") and find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    folder = tmp_path_factory.mktemp(pool)
    with running_worker(folder, settings_for(folder, task_track_started=True, result_extended=True), pool) as app:
        yield app
    with open_store(folder / "results.lmdb") as store:
        assert store.check() == []
        # Celery also sets a size for a group at the end of a chain in a header. It is not a chord, so it expires.
        assert [key for key in leftovers(store) if b".part." in key or key.endswith((b".body", b".claims"))] == []


def flat(results: Any) -> list[Any]:
    return [leaf for part in results for leaf in flat(part)] if isinstance(results, list) else [results]


def first_in_state(result: AsyncResult, state: str) -> dict[str, Any]:
    """Wait for a state, and return the meta that had it."""

    def look() -> dict[str, Any] | None:
        meta = result.backend.get_task_meta(result.id)
        return meta if meta["status"] == state else None

    return wait_for(look)


def test_a_result_comes_back(client: Celery) -> None:
    assert add.delay(1, 2).get(**PATIENT) == 3


def test_an_extended_result_names_the_worker(client: Celery) -> None:
    result = add.delay(1, 2)
    result.get(**PATIENT)
    assert (result.name, result.args, result.queue) == ("add", [1, 2], "celery")
    assert result.worker


def test_a_failure_comes_back_as_the_exception_with_its_traceback(client: Celery) -> None:
    result = fail.delay("why", 7)
    with pytest.raises(OwnError) as caught:
        result.get(**PATIENT)
    assert caught.value.args == ("why", 7)
    assert "in fail\n" in result.traceback


def test_a_task_is_in_state_retry_until_it_succeeds(client: Celery, tmp_path: Path) -> None:
    result = retry_until.delay(str(tmp_path / "go on"))
    error = first_in_state(result, "RETRY")["result"]
    assert (type(error), error.args) == (OwnError, ("not yet",))
    (tmp_path / "go on").touch()
    assert result.get(**PATIENT) == result.retries > 0


def test_a_task_that_runs_is_in_state_started(client: Celery, tmp_path: Path) -> None:
    result = wait_until.delay(str(tmp_path / "go on"))
    assert first_in_state(result, "STARTED")["result"]["hostname"]
    (tmp_path / "go on").touch()
    assert result.get(**PATIENT) is None


def test_progress_is_seen_while_the_task_runs(client: Celery, tmp_path: Path) -> None:
    result = progress.delay(str(tmp_path / "go on"))
    assert first_in_state(result, "PROGRESS")["result"] == {"done": 1, "of": 2}
    (tmp_path / "go on").touch()
    assert result.get(**PATIENT) == "finished"


def test_a_revoked_task_raises_task_revoked_error(client: Celery) -> None:
    task_id = uuid()
    wait_for(lambda: client.control.revoke(task_id, reply=True, limit=1))
    result = add.apply_async((1, 2), task_id=task_id)
    with pytest.raises(TaskRevokedError):
        result.get(**PATIENT)
    assert result.state == "REVOKED"


def test_a_chain_passes_results_on(client: Celery) -> None:
    last = chain(add.s(1), add.s(2), add.s(3))()
    assert (last.get(**PATIENT), last.parent.get(**PATIENT), last.parent.parent.get(**PATIENT)) == (6, 3, 1)


def test_a_group_comes_back_in_order(client: Celery) -> None:
    assert group(add.s(n, n) for n in range(50))().get(**PATIENT) == [2 * n for n in range(50)]


def test_a_saved_group_is_restored_by_its_id(client: Celery) -> None:
    result = group(add.s(n) for n in range(3))()
    result.save()
    assert GroupResult.restore(result.id).get(**PATIENT) == [0, 1, 2]
    result.delete()


def test_the_tasks_that_a_task_has_sent_are_its_children(client: Celery) -> None:
    result = sends_group.delay()
    handle = result_from_tuple(result.get(**PATIENT))
    (sent,) = result.children
    assert handle.as_tuple() == sent.as_tuple()
    assert sent.get(**PATIENT) == [0, 2, 4]


CANVASES = {
    "chord": (lambda: chord([add.s(n, n) for n in range(20)], total.s()), 380),
    "header from a generator": (lambda: chord((add.s(n, n) for n in range(20)), total.s()), 380),
    "header of one": (lambda: chord([add.s(1)], total.s()), 1),
    "empty header": (lambda: chord([], total.s()), 0),
    "group in header": (lambda: chord([add.s(1), group(add.s(2), add.s(3)), add.s(4)], echo.s()), [1, 2, 3, 4]),
    "groups of groups in header": (
        lambda: chord([group(add.s(1), group(add.s(2), add.s(3))), group([add.s(4), add.s(5)])], echo.s()),
        [1, 2, 3, 4, 5],
    ),
    "chord of chords": (
        lambda: chord([chord([add.s(1), add.s(2)], total.s()), chord([add.s(3), add.s(4)], total.s())], echo.s()),
        [3, 7],
    ),
    "chains in header": (lambda: chord([chain(add.s(1), add.s(2)), chain(add.s(3), add.s(4))], echo.s()), [3, 7]),
    "chain in header that ends in a group": (
        lambda: chord([chain(add.s(1), group(add.s(2), add.s(3))), add.s(4)], echo.s()),
        [3, 4, 4],
    ),
    "group as body": (lambda: chord([add.s(1), add.s(2)], group(total.s(), total.s())), [3, 3]),
    "chord in a chain": (lambda: chain(add.s(1), group(add.s(2), add.s(3)), total.s(), add.s(5)), 12),
    "chain as body": (lambda: chord([add.s(1), add.s(2)], chain(total.s(), add.s(5))), 8),
}


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_ends_in_its_result(client: Celery, name: str) -> None:
    make, expected = CANVASES[name]
    result = make()().get(**PATIENT)
    assert (sorted(flat(result)) if isinstance(expected, list) else result) == expected


def test_a_chord_with_a_failing_part_fails_with_its_exception(client: Celery) -> None:
    result = chord([add.s(1), fail.s("why")], total.s())()
    with pytest.raises(ChordError, match=r"Dependency .* raised OwnError\('why'\)"):
        result.get(**PATIENT, follow_parents=False)


READ_ALL = """
import json, sys
from lmdbresults import open_store
from tests.support.celery_tasks import make_app

app = make_app(json.loads(sys.argv[1]))
ids = open(sys.argv[2]).read().split()
assert [app.AsyncResult(id).get(timeout=0) for id in ids] == list(range(len(ids)))
assert len(dict(app.backend.get_many(ids, timeout=0))) == len(ids)
assert app.backend.store.check() == []
"""


def test_a_later_process_reads_many_results(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, result_backend=f"lmdb://{tmp_path}/results.lmdb")
    with running_worker(tmp_path, settings, "prefork"):
        results = [echo.delay(number) for number in range(MANY)]
        for result in results:
            result.get(**PATIENT)
    ids = tmp_path / "ids"
    ids.write_text("\n".join(result.id for result in results))
    reader = run_script(READ_ALL, json.dumps(settings), ids)
    assert reader.returncode == 0, reader.stderr
