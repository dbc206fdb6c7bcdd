"""Many chords at once: eight processes return parts in random order; some twice, some failing.

Laws: each body is dispatched once with the right list, or fails once with the right error; an ended chord leaves only
its end marker, which expires.
"""

import random
import time
from dataclasses import dataclass

import pytest

from lmdbresults import open_store
from lmdbresults.backends import open_backend
from lmdbresults.testing import FakeClock
from tests.support.held import Held, HeldApp
from tests.support.processes import FORKS_WITH_THREADS, Barrier, Child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

PROCESSES = 8


@dataclass
class Expected:
    """The expected outcome of a chord."""

    values: list[list[int]]
    error: str | None = None


def start(app: HeldApp, rng: random.Random, number: int, size: int) -> tuple[str, Expected]:
    """Start a chord, one in four with failing parts; return the id of its body and the expected outcome."""
    failing = set(rng.sample(range(size), rng.randint(1, 3))) if rng.random() < 0.25 else set()
    values = [[number, index] for index in range(size)]
    header = app.parts(*values)
    for index in failing:
        header[index] = app.signature("fail", (values[index],))
        header[index].freeze(f"part {number} {index}")
    body = app.body()
    body.link_error(app.signature("new style"))
    expected = Expected(values)
    if failing:
        first = min(failing)
        expected.error = f"Dependency part {number} {first} raised ValueError({values[first]})"
    return app.chord(header, body).id, expected


def deliver(path: str, durability: str, tasks: list[Held], go: Barrier) -> tuple[list[Held], list[tuple[str, str]]]:
    """Run tasks like a worker; return what was dispatched, and the bodies whose errback was called."""
    app = HeldApp(result_chord_join_timeout=30.0)
    open_backend(path, app=app, durability=durability)
    go.wait()
    for task in tasks:
        app.run(*task)
    return app.held, [(request.id, str(error)) for request, error, _ in app.errors]


def deliver_in_processes(
    path: str, durability: str, piles: list[list[Held]]
) -> list[tuple[list[Held], list[tuple[str, str]]]]:
    go = Barrier()
    workers = [Child(deliver, path, durability, pile, go) for pile in piles]
    go.open()
    try:
        return [worker.join() for worker in workers]
    finally:
        for worker in workers:
            worker.close()


@pytest.mark.parametrize(("durability", "chords", "parts"), [("none", 200, 50), ("commit", 10, 20)])
def test_each_body_runs_once_with_the_right_list_or_fails_once_with_the_right_error(
    path: str, durability: str, chords: int, parts: int
) -> None:
    rng, app = random.Random(7), HeldApp()
    backend = open_backend(path, app=app, durability=durability)
    expected = dict(start(app, rng, number, parts) for number in range(chords))
    deliveries = app.held + rng.sample(app.held, len(app.held) // 10)
    rng.shuffle(deliveries)

    histories = deliver_in_processes(path, durability, [deliveries[first::PROCESSES] for first in range(PROCESSES)])

    dispatched = [(task["options"]["task_id"], args) for bodies, _ in histories for task, args in bodies]
    failed = [error for _, errors in histories for error in errors]
    assert sorted(dispatched) == sorted((id_, (chord.values,)) for id_, chord in expected.items() if not chord.error)
    assert sorted(failed) == sorted((id_, chord.error) for id_, chord in expected.items() if chord.error)
    for id_, error in failed:
        assert str(backend.get_result(id_)) == error
    assert app.bookkeeping() == set()
    assert len(list(app.store.scan(b"chord-unlock-"))) == chords
    assert app.store.check() == []
    backend.process_cleanup()
    with open_store(path, durability=durability, clock=FakeClock(time.time() + 86400)) as later:
        later.sweep()
        assert list(later.scan(b"chord-unlock-")) == []
        assert later.check() == []
