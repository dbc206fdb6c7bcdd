"""Chords through several Celery workers, of which pool processes and whole workers are killed at random meanwhile.

``LMDBRESULTS_SOAK_SECONDS`` says for how long something is killed, ``LMDBRESULTS_SOAK_CHORDS`` how many chords of 50
parts there are: 200 and 120 seconds is the long form. All of them have to end, with the right list.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.celery.tasks import make_app
from tests.celery.workers import Worker
from tests.chord_keys import leftovers
from tests.stress.celery_chords import make_chord, settings_with_redis

SECONDS = float(os.environ.get("LMDBRESULTS_SOAK_SECONDS", "6"))
CHORDS = int(os.environ.get("LMDBRESULTS_SOAK_CHORDS", "10"))
PARTS = 50
WORKERS = 2
#: Seconds for which nothing may change once nobody is killed any more.
PATIENCE = 60.0


class Fleet:
    """Some workers; what is killed of them is counted and replaced."""

    def __init__(self, folder: Path, settings: dict[str, Any], choose: random.Random) -> None:
        self._settings, self._choose = settings, choose
        self.killed: Counter[str] = Counter()
        self._folders = [folder / str(number) for number in range(WORKERS)]
        for each in self._folders:
            each.mkdir()
        self._workers = [self._start(each) for each in self._folders]

    def _start(self, folder: Path) -> Worker:
        return Worker(folder, self._settings)

    def kill_something(self) -> None:
        """Kill a process of a pool, or one time in eight a whole worker."""
        number = self._choose.randrange(WORKERS)
        if self._choose.random() < 1 / 8:
            self._workers[number].kill()
            self._workers[number] = self._start(self._folders[number])
            self.killed["workers"] += 1
        else:
            with suppress(AssertionError):  # none that has stored a result is left
                self._workers[number].kill_one(self._choose)
                self.killed["processes"] += 1

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


def wait_until_nothing_changes(count: Callable[[], int], target: int) -> None:
    """Wait until a count has come to its target, or has not grown for long."""
    seen, until = count(), time.monotonic() + PATIENCE
    while seen < target and time.monotonic() < until:
        time.sleep(0.1)
        now = count()
        if now > seen:
            seen, until = now, time.monotonic() + PATIENCE


@pytest.mark.timeout(SECONDS + 600)
def test_every_chord_ends_right_while_workers_are_killed(
    tmp_path: Path, redis_broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = random.Random(5)
    settings = settings_with_redis(tmp_path, redis_broker)
    app, fleet = make_app(settings), Fleet(tmp_path, settings, choose)
    store, bodies = app.backend.store, [f"body-{number}" for number in range(CHORDS)]

    def ended() -> int:
        keys = [app.backend.get_key_for_task(body) for body in bodies]
        return sum(value is not None for value in store.mget(keys))  # reading this way takes nothing over

    try:
        until, sent = time.monotonic() + SECONDS, 0
        while time.monotonic() < until or sent < CHORDS:
            if sent < CHORDS:
                make_chord(app, sent, PARTS).apply_async(task_id=bodies[sent])
                sent += 1
            time.sleep(SECONDS / CHORDS / 2 + choose.random() * SECONDS / CHORDS)
            fleet.kill_something()
        wait_until_nothing_changes(ended, CHORDS)
        wait_until_nothing_changes(lambda: -len(leftovers(store)), 0)
        wrong = [n for n, body in enumerate(bodies) if result(app, body) != [[n, index] for index in range(PARTS)]]
        with capsys.disabled():
            print(
                f"\nsoak: {CHORDS} chords of {PARTS}, {dict(fleet.killed)} killed, {CHORDS - ended()} missing, ", end=""
            )
            print(f"{len(wrong)} not right, {len(leftovers(store))} keys left over")
        assert (wrong, leftovers(store), store.check()) == ([], [], [])
    finally:
        fleet.close()
        store.close()
        app.close()


def result(app: Any, task_id: str) -> Any:
    meta = app.backend.get_task_meta(task_id)
    return meta["result"] if meta["status"] == "SUCCESS" else meta
