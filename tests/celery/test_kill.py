"""kill -9 of pool processes and of whole workers: what was acknowledged is there. This says nothing of power loss."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.celery_needed import FULL
from tests.support.celery_tasks import make_app, settings_for
from tests.support.celery_workers import PATIENCE, Worker, wait_for

#: How often something is killed; a minute's worth where there is time.
KILLS = 60 if FULL else 6


def kill_a_process(worker: Worker, restart: Callable[[], Worker], choose: random.Random) -> Worker:
    worker.kill_one(choose)
    return worker


def kill_all(worker: Worker, restart: Callable[[], Worker], choose: random.Random) -> Worker:
    worker.kill()
    return restart()


def has_acknowledged(worker: Worker, tasks: int) -> bool:
    return len(worker.acknowledged()) >= tasks


@pytest.mark.parametrize("kill", [kill_a_process, kill_all])
def test_every_acknowledged_result_survives(tmp_path: Path, kill: Callable[..., Worker]) -> None:
    choose = random.Random(1)
    settings = settings_for(tmp_path, result_backend=f"lmdb://{tmp_path}/results.lmdb")
    app, sent = make_app(settings), {}

    def restart() -> Worker:
        return Worker(tmp_path, settings, concurrency=4)

    worker = restart()
    try:
        for _ in range(KILLS):
            enough = len(worker.acknowledged()) + choose.randrange(5, 40)
            for _ in range(60):
                arguments = (str(len(sent)), choose.choice([1, 1000, 20_000]))
                sent[app.tasks["repeat"].delay(*arguments).id] = arguments
            wait_for(partial(has_acknowledged, worker, enough))
            worker = kill(worker, restart, choose)
        assert app.tasks["add"].delay(1, 2).get(timeout=PATIENCE, interval=0.01) == 3
    finally:
        worker.kill()

    acknowledged = worker.acknowledged().keys() & sent.keys()
    assert len(acknowledged) >= 5 * KILLS
    assert [task_id for task_id in acknowledged if app.AsyncResult(task_id).state != "SUCCESS"] == []
    results = {task_id: app.AsyncResult(task_id).get(timeout=0) for task_id in acknowledged}
    assert all(results[task_id] == word * times for task_id, (word, times) in sent.items() if task_id in results)
    assert app.backend.store.check() == []
    app.backend.store.close()
