"""Chords whose parts return from several processes at once, each with a backend of its own."""

import random
from collections.abc import Iterator

import pytest

from lmdbresults.backends import open_backend
from lmdbresults.errors import ChordError
from lmdbresults.results import AsyncResult
from lmdbresults.testing import die_at
from tests.support.held import Held, HeldApp, Task
from tests.support.processes import FORKS_WITH_THREADS, Barrier, Child, child, in_child
from tests.support.waits import threads, until

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@pytest.fixture(params=["none", "commit"])
def url(request: pytest.FixtureRequest, path: str) -> str:
    return f"lmdb://{path}?durability={request.param}"


@pytest.fixture
def app(url: str) -> Iterator[HeldApp]:
    app = HeldApp()
    backend = open_backend(url, app=app)
    yield app
    assert app.store.check() == []
    backend.process_cleanup()


def run_here(url: str, tasks: list[Held], go: Barrier) -> list[Held]:
    """Run tasks as a worker process does; return what they have dispatched."""
    app = HeldApp()
    open_backend(url, app=app)
    go.wait()
    for task in tasks:
        app.run(*task)
    return app.held


def run_in_processes(url: str, piles: list[list[Held]]) -> list[Held]:
    """Run each pile of tasks in a process of its own, all from the same moment on; return what was dispatched."""
    go = Barrier()
    workers = [Child(run_here, url, pile, go) for pile in piles]
    go.open()
    try:
        return [dispatched for worker in workers for dispatched in worker.join()]
    finally:
        for worker in workers:
            worker.close()


def test_exactly_one_process_dispatches_the_body_with_the_whole_list(app: HeldApp, url: str) -> None:
    app.chord(app.parts(*range(40)), app.body())
    random.Random(1).shuffle(app.held)
    [(task, args)] = run_in_processes(url, [app.held[start::4] for start in range(4)])
    assert (task["task"], args) == ("gather", ([*range(40)],))
    assert app.bookkeeping() == set()


@pytest.mark.interface("on_chord_part_return")
def test_a_part_that_returns_in_several_processes_counts_once(app: HeldApp, url: str) -> None:
    app.chord(app.parts(*range(10)), app.body())
    *parts, last = app.held
    assert run_in_processes(url, [parts] * 4) == []
    [(_, args)] = run_in_processes(url, [[last]] * 4)
    assert args == ([*range(10)],)
    assert run_in_processes(url, [app.held] * 2) == []
    assert app.bookkeeping() == set()


def die_with_the_claim(url: str, tasks: list[Held], flag: str) -> None:
    die_at("chord claimed", flag)
    app = HeldApp()
    open_backend(url, app=app)
    for task in tasks:
        app.run(*task)


def test_a_waiter_takes_over_the_chord_of_a_dead_process_whatever_its_interval(
    app: HeldApp, url: str, path: str
) -> None:
    result = app.chord(app.parts(1, 2), app.body())
    parts, app.held = app.held, []
    with threads(1, lambda _: result.get(interval=3600.0)):
        until(lambda: app.backend.waiting.hub._reader)
        with child(die_with_the_claim, url, parts, f"{path}-died") as worker:
            worker.wait()
        until(lambda: app.held)
        app.run_held()
    assert app.gathered == [[1, 2]]


def test_a_failing_part_fails_the_body_once_across_processes(app: HeldApp, url: str) -> None:
    body = app.body()
    body.link_error(app.signature("old style"))
    result = app.chord([*app.parts(*range(8)), app.signature("fail", ("why",))], body)
    [(errback, args)] = run_in_processes(url, [app.held[start::3] for start in range(3)])
    assert (errback["task"], args) == ("old style", (result.id,))
    with pytest.raises(ChordError, match=r"raised ValueError\('why'\)"):
        result.get(timeout=0)


def test_groups_and_chords_inside_a_chord_end_across_processes(app: HeldApp, url: str) -> None:
    outer, inner = app.body(), app.body()
    result = outer.freeze()
    handles = [inner.freeze(group_id="outer", group_index=0, chord=dict(outer))]
    app.require_backend().apply_chord(("outer", handles), outer)
    one, two, three = app.parts(1, 2, 3)
    app.chord([one, [two, three]], inner)
    [inner_body] = run_in_processes(url, [[part] for part in app.held])
    [outer_body] = run_in_processes(url, [[inner_body]])
    assert run_in_processes(url, [[outer_body]]) == []
    assert result.get(timeout=0) == [[1, [2, 3]]]


def test_parts_that_are_added_in_other_processes_are_waited_for(app: HeldApp, url: str) -> None:
    app.chord(app.parts(0), app.body())
    [(first, _)] = app.held
    for number in range(1, 9):
        task = {**first, "args": [number], "options": {**first["options"], "task_id": f"added {number}"}}
        app.held.append((task, ()))
        in_child(add_here, url, task)
    [(_, args)] = run_in_processes(url, [[task] for task in app.held])
    assert args == ([*range(9)],)


def add_here(url: str, task: Task) -> None:
    options = task["options"]
    open_backend(url).add_to_chord(options["group_id"], AsyncResult(options["task_id"]))
