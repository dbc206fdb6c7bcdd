"""Each Celery worker looks once a second for chords whose last worker has died, also while it has nothing to do.

Celery does not deliver a task again that was stored as a success before its process was lost: if that was the last part
of a chord, nobody would come by.
"""

import threading
from typing import Any, Final

from celery.signals import worker_ready, worker_shutdown
from celery.utils.log import get_logger

__all__ = ["Watch"]

logger = get_logger(__name__)

#: Seconds between two looks, each of which is a single read.
_PAUSE: Final = 1.0


class Watch:
    """A thread of a worker's main process that takes over what dead processes have left of chords."""

    def __init__(self, chords: Any, pause: float = _PAUSE) -> None:
        self._chords = chords
        self._pause = pause
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmdbresults-chords", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(self._pause):
            try:
                self._chords.recover(now=True)
            except Exception:
                logger.exception("The look for chords of dead workers has failed; it is repeated.")

    def stop(self) -> None:
        """End it, once what it may be doing is done."""
        self._is_over.set()
        self._thread.join(10.0)


#: That of this process, if it is a worker.
_watches: Final[list[Watch]] = []


def _begin(sender: Any, **kwargs: Any) -> None:
    chords = getattr(sender.app.backend, "chords", None)
    if chords is not None:
        _watches.append(Watch(chords))


def _end(**kwargs: Any) -> None:
    while _watches:
        _watches.pop().stop()


# Celery keeps receivers by weak reference; these live as long as the module.
worker_ready.connect(_begin)
worker_shutdown.connect(_end)
