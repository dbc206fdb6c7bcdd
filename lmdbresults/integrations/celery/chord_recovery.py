"""Each Celery worker looks once a second for chords whose last worker has died, also while it is idle.

A task that was stored as a success before its process was lost is not delivered again: if it was the last part of a
chord, no other event would lead to the chord.
"""

import threading
from typing import Any, Final

from celery.signals import worker_ready, worker_shutdown
from celery.utils.log import get_logger

__all__ = ["RecoveryThread"]

logger = get_logger(__name__)

#: Seconds between two looks, each of which is a single read.
_PAUSE: Final = 1.0


class RecoveryThread:
    """A thread of a worker's main process that takes over the orphaned claims on chords."""

    def __init__(self, chords: Any) -> None:
        self._chords = chords
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmdbresults-chords", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(_PAUSE):
            try:
                self._chords.recover(now=True)
            except Exception:
                logger.exception("Checking for chords of dead workers failed; it is repeated.")

    def stop(self) -> None:
        """Stop the thread after the present look."""
        self._is_over.set()
        self._thread.join(10.0)


#: The threads of this process, if it is a worker.
_threads: Final[list[RecoveryThread]] = []


def _start(sender: Any, **kwargs: Any) -> None:
    chords = getattr(sender.app.backend, "chords", None)
    if chords is not None:
        _threads.append(RecoveryThread(chords))


def _stop(**kwargs: Any) -> None:
    while _threads:
        _threads.pop().stop()


# Celery keeps receivers by weak reference; these functions live as long as the module.
worker_ready.connect(_start)
worker_shutdown.connect(_stop)
