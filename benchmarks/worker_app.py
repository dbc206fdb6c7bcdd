"""The application of the end-to-end scenario, for its worker and its client.

Environment variables tell the worker which result backend to use: the name of a peer, and its folder.
"""

# mypy: disallow-untyped-decorators=False

import os
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import celery
from benchmarks.peers.base import RESULT, Peer

PEER: Final = "LMDBRESULTS_BENCHMARK_PEER"
FOLDER: Final = "LMDBRESULTS_BENCHMARK_FOLDER"
BROKER: Final = "LMDBRESULTS_BENCHMARK_BROKER"

PEERS = (celery.NONE, celery.CHECKPOINT, celery.REDIS, celery.FILES, celery.SQLITE_OFF)


def open_client(about: Peer, folder: Path, broker: str) -> celery.Backend:
    """Return a client whose application has this broker, a queue of its own, and the task."""
    settings = {"broker_url": broker, "task_default_queue": about.name, "worker_enable_remote_control": False}
    client: celery.Backend = about.open(folder, settings=settings)

    @client.app.task(name="tasks.answer", shared=False)
    def answer(number: int) -> dict[str, Any]:
        """Return the result that all scenarios store."""
        return RESULT

    return client


if PEER in os.environ:
    named = {about.name: about for about in PEERS}
    app = open_client(named[os.environ[PEER]], Path(os.environ[FOLDER]), os.environ[BROKER]).app
