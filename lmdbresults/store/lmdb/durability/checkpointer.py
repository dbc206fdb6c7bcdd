"""The thread that makes checkpoints in time. It outlives the closing of a file around a fork."""

import math
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Checkpointer"]


class Checkpointer:
    """Calls a function when woken, and whenever the function has asked to be called again.

    The thread starts at the first `wake`. The child of a fork has no such thread, and makes a new object.
    """

    def __init__(self, work: Callable[[], float]) -> None:
        self._work = work
        #: Released to wake the thread. Not a `threading.Event`, which is written in Python: an exception out of a
        #: signal handler in the middle of `set` would leave it locked for ever.
        self._signal = threading.Lock()
        self._signal.acquire()
        self._is_stopped = False
        self._thread: threading.Thread | None = None
        #: Held while the thread is started. No thread waits for it.
        self._starting = threading.Lock()

    def wake(self) -> bool:
        """Have the function called soon; return whether a thread runs that can do so.

        None does if the system allows no more threads, or the interpreter ends.
        """
        self._set()
        if not self._is_running() and self._starting.acquire(blocking=False):
            try:
                # Kept before it runs: a signal handler may raise as `start` waits for it.
                self._thread = threading.Thread(target=self._run, name="lmdbresults-checkpoints", daemon=True)
                self._thread.start()
            except RuntimeError:
                pass
            except KeyError as error:  # of `start`, if a signal handler raises once the thread runs
                raise (error.__context__ or error) from None
            finally:
                self._starting.release()
        return self._is_running()

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Have the thread end soon, without waiting: it may be waiting for a lock of the caller."""
        self._is_stopped = True
        self._set()

    def _set(self) -> None:
        with suppress(RuntimeError):  # it is released already
            self._signal.release()

    def _run(self) -> None:
        while not self._is_stopped:
            seconds = self._work()
            self._signal.acquire(timeout=-1 if math.isinf(seconds) else max(seconds, 0))
        self._set()  # there is a second thread if a signal handler raised as the first one started
