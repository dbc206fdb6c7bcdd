"""Chords through several Celery workers while pool processes and whole workers are killed at random.

``LMDBRESULTS_SOAK_SECONDS``: how long processes are killed; ``LMDBRESULTS_SOAK_CHORDS``: the number of chords of 50
parts. The long form is 120 seconds and 200 chords. Each chord must end with the right list.
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

from lmdbresults import LMDBStore
from lmdbresults.store.chord_records import ENDED
from tests.stress.celery_chords import Sent, make_chord, settings_with_redis
from tests.support.celery_tasks import make_app
from tests.support.celery_workers import Worker
from tests.support.chord_keys import leftovers

SECONDS = float(os.environ.get("LMDBRESULTS_SOAK_SECONDS", "6"))
CHORDS = int(os.environ.get("LMDBRESULTS_SOAK_CHORDS", "10"))
PARTS = 50
WORKERS = 2
#: Seconds without a change after which the test stops waiting.
PATIENCE = 30.0


class Fleet:
    """Several workers. Killed processes are counted and replaced."""

    def __init__(self, folder: Path, settings: dict[str, Any], choose: random.Random) -> None:
        self._settings, self._choose = settings, choose
        self.killed: Counter[str] = Counter()
        self.folders = [folder / str(number) for number in range(WORKERS)]
        for each in self.folders:
            each.mkdir()
        self._workers = [self._start(each) for each in self.folders]

    def _start(self, folder: Path) -> Worker:
        return Worker(folder, self._settings)

    def kill_one(self) -> None:
        """Kill a pool process, or one time in eight a whole worker."""
        number = self._choose.randrange(WORKERS)
        if self._choose.random() < 1 / 8:
            self._workers[number].kill()
            self._workers[number] = self._start(self.folders[number])
            self.killed["workers"] += 1
        else:
            with suppress(AssertionError):  # no pool process has stored a result yet
                self._workers[number].kill_one(self._choose)
                self.killed["processes"] += 1

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


def wait_until_nothing_changes(count: Callable[[], int], target: int) -> None:
    """Wait until a count has reached its target, or has stopped growing."""
    seen, until = count(), time.monotonic() + PATIENCE
    while seen < target and time.monotonic() < until:
        time.sleep(0.1)
        now = count()
        if now > seen:
            seen, until = now, time.monotonic() + PATIENCE


def send_and_kill(app: Any, fleet: Fleet, choose: random.Random) -> None:
    """Send all chords; kill a process after each, and after the last until the time is over."""
    until, sent = time.monotonic() + SECONDS, 0
    while time.monotonic() < until or sent < CHORDS:
        if sent < CHORDS:
            make_chord(app, sent, PARTS).apply_async(task_id=f"body-{sent}")
            sent += 1
        time.sleep(SECONDS / CHORDS / 2 + choose.random() * SECONDS / CHORDS)
        fleet.kill_one()


def unfinished(store: Any) -> list[bytes]:
    """Return what chords have left in a file, or on a server those that have not ended."""
    if isinstance(store, LMDBStore):
        return leftovers(store)
    return [key for key, head in store.chords.in_flight(b"chord-unlock-") if head.state != ENDED]


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("results", ["in a file", "on Redis"])
def test_every_chord_ends_with_the_right_list_while_workers_are_killed(
    tmp_path: Path, redis_broker: str, results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = random.Random(5)
    settings = settings_with_redis(tmp_path, redis_broker)
    if results == "on Redis":
        settings["result_backend"] = f"lmdbresults+unix://{redis_broker.removeprefix('redis+socket://')}?db=9"
    app, fleet = make_app(settings), Fleet(tmp_path, settings, choose)
    store, bodies, sent = app.backend.store, [f"body-{n}" for n in range(CHORDS)], Sent(app, fleet.folders)

    def ended() -> int:
        keys = [app.backend.get_key_for_task(body) for body in bodies]
        return sum(value is not None for value in store.mget(keys))  # this read does not recover chords

    try:
        send_and_kill(app, fleet, choose)
        wait_until_nothing_changes(ended, CHORDS)
        lost = sent.send_lost_again() if ended() < CHORDS else 0
        wait_until_nothing_changes(ended, CHORDS - len(sent.lost_by_workers()))
        wait_until_nothing_changes(lambda: -len(unfinished(store)), 0)
        metas = {body: result(app, body) for body in bodies if body not in sent.lost_by_workers()}
        right = [body for n, body in enumerate(bodies) if metas.get(body) == [[n, index] for index in range(PARTS)]]
        with capsys.disabled():
            print(f"\nsoak, results {results}: {CHORDS} chords of {PARTS}, {dict(fleet.killed)} killed: ", end="")
            print(f"{len(right)} right, ", end="")
            print(f"{len(metas) - len(right)} wrong or missing, {len(unfinished(store))} keys left over; ", end="")
            print(f"lost by the broker: {lost} parts (sent again), {CHORDS - len(metas)} bodies")
        assert sorted(right) == sorted(metas)
        assert unfinished(store) == []
        if isinstance(store, LMDBStore):
            assert store.check() == []
    finally:
        fleet.close()
        store.close()
        app.close()


def result(app: Any, task_id: str) -> Any:
    meta = app.backend.get_task_meta(task_id)
    return meta["result"] if meta["status"] == "SUCCESS" else meta
