"""The application of the end-to-end scenario, for its worker and its client.

Environment variables tell the worker which result backend to use: the name of a peer, and its folder.
"""

# mypy: disallow-untyped-decorators=False

import os
from pathlib import Path
from typing import Any, Final

from celery import Celery

from benchmarks.peers import celery
from benchmarks.peers.base import RESULT

PEER: Final = "LMDBRESULTS_BENCHMARK_PEER"
FOLDER: Final = "LMDBRESULTS_BENCHMARK_FOLDER"
BROKER: Final = "LMDBRESULTS_BENCHMARK_BROKER"

CLASSES = (celery.LMDBResults, celery.LMDBResultsCheckpoint, celery.Redis, celery.Files, celery.SQLiteOff)


def make_app(about: type[celery.CeleryPeer], folder: Path, broker: str) -> Celery:
    """Return an application with this result backend and its own queue."""
    made = about.make_app(folder, broker_url=broker, task_default_queue=about.name)
    made.conf.update(broker_connection_retry_on_startup=True, worker_enable_remote_control=False)

    @made.task(name="tasks.answer", shared=False)
    def answer(number: int) -> dict[str, Any]:
        """Return the result that all scenarios store."""
        return RESULT

    return made


if PEER in os.environ:
    named = {about.name: about for about in CLASSES}
    app = make_app(named[os.environ[PEER]], Path(os.environ[FOLDER]), os.environ[BROKER])
