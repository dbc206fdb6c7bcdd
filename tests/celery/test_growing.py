"""The procedure of docs/growing.md: from a file to Redis without a stop, with real workers.

``LMDBRESULTS_GROWING_TASKS``: how many tasks are sent four times: before, twice during and after. The long form is
2,500.
"""

import os
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

from celery import chord

from lmdbresults.copying import copy, open_source, open_target, verify
from tests.support.celery_tasks import echo, make_app, settings_for
from tests.support.celery_workers import PATIENCE, Worker, wait_for

TASKS = int(os.environ.get("LMDBRESULTS_GROWING_TASKS", "80"))


class Reader(Thread):
    """Reads all results that workers have acknowledged, again and again, and notes those that are missing."""

    def __init__(self, app: Any, workers: list[Worker]) -> None:
        super().__init__()
        self._app, self._workers, self._is_over = app, workers, Event()
        self.missing: set[str] = set()
        self.rounds = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            ids = [id_ for worker in list(self._workers) for id_ in worker.acknowledged()]
            found = {id_ for id_, _ in self._app.backend.get_many(ids, timeout=0, max_iterations=1)} if ids else set()
            self.missing.update(set(ids) - found)
            self.rounds += 1
            time.sleep(0.01)

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_results_move_from_a_file_to_redis_and_each_is_readable_all_the_time(tmp_path: Path, redis_socket: Path):
    file, server = f"lmdb://{tmp_path}/results.lmdb?durability=none", f"lmdbresults+unix://{redis_socket}?db=3"
    old_settings = settings_for(tmp_path)
    new_settings = {**old_settings, "result_backend": server, "result_backend_transport_options": {"fallback": file}}
    old, new = make_app(old_settings), make_app(new_settings)
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    workers = [Worker(folders[0], old_settings)]
    reader = Reader(new, workers)
    reader.start()
    sent: dict[str, int] = {}
    try:
        send(old, sent)
        first = chord([echo.s(n) for n in range(20)], echo.s(), app=old).apply_async()
        wait_for(lambda: len(workers[0].acknowledged()) > TASKS // 2)
        workers.append(Worker(folders[1], new_settings))  # both take from the same queue
        wait_for(lambda: " ready." in workers[1].log.read_text())
        send(old, sent)
        send(new, sent)
        chords = [chord([echo.s(n) for n in range(20)], echo.s(), app=app).apply_async() for app in (old, new)]
        for result in (first, *chords):
            assert new.AsyncResult(result.id).get(timeout=PATIENCE) == list(range(20))
        assert workers[0].stop() == 0
        send(new, sent)
        for id_, number in sent.items():
            assert new.AsyncResult(id_).get(timeout=PATIENCE) == number
        assert workers[1].acknowledged(), "the new worker has run nothing"
        source, target = open_source(file), open_target(server.removeprefix("lmdbresults+"))
        assert copy(source, target).problems == []
        assert list(verify(source, target)) == []
        target.close()
        reader.stop()
        after = make_app({**new_settings, "result_backend_transport_options": {}})
        assert all(after.AsyncResult(id_).get(timeout=0) == number for id_, number in sent.items())
        after.backend.store.close()
        assert (reader.missing, reader.rounds > 3) == (set(), True)
    finally:
        reader.stop()
        for worker in workers:
            worker.kill()
        for app in (old, new):
            app.backend.close()
            app.close()


def send(app: Any, sent: dict[str, int]) -> None:
    """Send tasks, which add a number to itself."""
    for number in range(TASKS):
        sent[app.tasks["add"].delay(number, number).id] = 2 * number
