"""Chords of all shapes through real workers of two kinds: what the canvas makes of them comes back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, uuid
from celery.exceptions import ChordError

from lmdbresults import open_store
from lmdbresults.store.chord_records import ENDED
from tests.support.celery_needed import needs_group_errors
from tests.support.celery_tasks import (
    OwnError,
    add,
    adds_part,
    echo,
    fail,
    note_call,
    note_error,
    quiet,
    replaced,
    settings_for,
    total,
)
from tests.support.celery_workers import PATIENCE, running_worker, wait_for
from tests.support.chord_keys import leftovers

PATIENT: dict[str, float] = {"timeout": PATIENCE, "interval": 0.01}


@pytest.fixture(scope="module", params=["threads", "prefork", "prefork over Redis"])
def client(request: Any, tmp_path_factory: Any) -> Iterator[Celery]:
    """The current application, with a worker at its service; no chord leaves anything behind."""
    folder, (pool, _, engine) = tmp_path_factory.mktemp("worker"), request.param.partition(" over ")
    settings = settings_for(folder)
    if engine:
        settings["result_backend"] = f"lmdbresults+unix://{request.getfixturevalue('redis_socket')}"
    with running_worker(folder, settings, pool) as app:
        yield app
    if engine:
        with open_store(settings["result_backend"].removeprefix("lmdbresults+")) as store:
            assert {head.state for _, head in store.chords.in_flight(b"chord-unlock-")} == {ENDED}
    else:
        with open_store(folder / "results.lmdb") as store:
            assert store.check() == []
            assert leftovers(store) == []


SHAPES: dict[str, tuple[Callable[[], Any], Any]] = {
    "results ignored": (lambda: chord([quiet.s(n) for n in range(5)], echo.s()), [0, 1, 2, 3, 4]),
    "results ignored, in groups": (
        lambda: chord([quiet.s(0), group(quiet.s(n) for n in (1, 2)), quiet.s(3)], echo.s()),
        None,
    ),
    "a task replaced by a task": (lambda: chord([replaced.s(1), echo.s(2)], echo.s()), [1, 2]),
    "a task replaced by a group": (lambda: chord([replaced.s(1, 3), echo.s(2)], echo.s()), None),
    "a part that adds one": (lambda: chord([adds_part.s(1), echo.s(2)], echo.s()), [1, 2, [1, "added"]]),
    "a chain in the header": (lambda: chord([chain(add.s(1), add.s(2)), echo.s(4)], echo.s()), [3, 4]),
    "a chord in the header": (lambda: chord([chord([add.s(1), add.s(2)], total.s()), echo.s(4)], echo.s()), [3, 4]),
    "a chord as the body": (lambda: chord([add.s(1)], chord([total.s(), total.s()], echo.s())), [1, 1]),
    "a group as the body": (lambda: chord([add.s(1), add.s(2)], group(total.s(), echo.s())), [3, [1, 2]]),
    "a chain as the body": (lambda: chord([add.s(1), add.s(2)], chain(total.s(), add.s(5))), 8),
    "chords in a row": (
        lambda: chain(group(add.s(1), add.s(2)), total.s(), group(add.s(1), add.s(2)), total.s()),
        9,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_chord_ends_in_its_result(client: Celery, name: str) -> None:
    make, expected = SHAPES[name]
    found = make()().get(**PATIENT)
    if expected is None:  # whether groups are flattened, and which way round, is the business of the canvas
        digits = sorted(filter(str.isdigit, str(found)))
        assert digits == list("0123" if "ignored" in name else "1112")
    else:
        assert found == expected


def failure_of(result: Any) -> BaseException:
    with pytest.raises(ChordError) as caught:
        result.get(**PATIENT, follow_parents=False)
    return caught.value


@pytest.mark.parametrize("on_header", [False, True])
def test_errbacks_are_called_for_the_body_and_if_set_for_the_header(
    client: Celery, tmp_path: Path, on_header: bool
) -> None:
    log, calls = tmp_path / "log", tmp_path / "calls"
    part = fail.s("why").set(task_id=uuid())
    if on_header:  # what Celery's link_error() does if task_allow_error_cb_on_chord_header is set
        part.link_error(note_call.si(str(calls)))
    body = total.s().set(task_id=uuid()).on_error(note_error.s(str(log)))
    error = failure_of(chord([part, echo.s(1)], body)())
    assert "raised OwnError('why')" in str(error)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    assert log.read_text().startswith(f"{body.id} ChordError(")
    assert len(log.read_text().splitlines()) == 1
    if on_header:
        wait_for(lambda: calls.exists() and calls.read_text() == "called\n")


def test_a_chain_in_a_header_that_fails_early_fails_the_body(client: Celery) -> None:
    assert "raised OwnError('why')" in str(failure_of(chord([chain(fail.si("why"), add.s(1)), echo.s(2)], echo.s())()))


def test_a_chord_in_a_header_that_fails_fails_the_outer_one(client: Celery) -> None:
    result = chord([chord([fail.s("why"), echo.s(1)], echo.s()), echo.s(2)], echo.s())()
    error = failure_of(result)
    assert "raised ChordError" in str(error)
    assert "OwnError('why')" in str(error)


def test_a_revoked_part_fails_the_body(client: Celery) -> None:
    task_id = uuid()
    wait_for(lambda: client.control.revoke(task_id, reply=True, limit=1))
    result = chord([add.s(1).set(task_id=task_id), add.s(2)], total.s())()
    assert f"Dependency {task_id} raised TaskRevokedError('revoked')" in str(failure_of(result))


@needs_group_errors
def test_a_group_as_body_fails_in_all_its_tasks(client: Celery) -> None:
    result = chord([fail.s("why"), add.s(1)], group(total.s(), echo.s()))()
    for task in result.results:
        wait_for(task.ready)
        assert isinstance(task.result, OwnError)
