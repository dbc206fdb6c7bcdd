"""The end of a process: its files are closed in peace, so that a last checkpoint covers what it has written.

Python calls for that what `atexit` was told. The processes of multiprocessing skip it: they end by `os._exit`, once
they have called what multiprocessing was told.
"""

import atexit
import sys
import weakref
from typing import Final, Protocol

from lmdbresults.process.fork_gate import gate

__all__ = ["exits"]

#: Multiprocessing calls the greatest number first, and its own are -100 at least: its queues are emptied by then.
_LAST: Final = -1000


class Closable(Protocol):
    """What has to be told about the end."""

    def close_at_exit(self) -> None:
        """Close what is open, if that is possible soon. Called once or several times, by which it may be open again."""


class Exits:
    """Whom to tell when this process ends."""

    def __init__(self) -> None:
        self._watchers: weakref.WeakSet[Closable] = weakref.WeakSet()
        #: Whether multiprocessing knows, as far as this process has to do with it.
        self._is_told = False
        gate.watch_forks(self)
        atexit.register(self.close_all)

    def watch(self, watcher: Closable) -> None:
        """Tell the watcher when the process ends, for as long as it lives."""
        self._watchers.add(watcher)

    def before_fork(self) -> None:
        """Nothing to do."""

    def after_fork_in_child(self) -> None:
        """Have it be told anew: multiprocessing forgets in a child what it was told before."""
        self._is_told = False

    def expect(self) -> None:
        """Have multiprocessing be told, if it may have started this process. Called when there is something to close.

        It is not imported for that, which takes 10 ms: whatever it starts has imported it.
        """
        if self._is_told or not sys.modules.keys() >= {"multiprocessing.util", "multiprocessing.process"}:
            return
        from multiprocessing import process, util

        if process.parent_process() is not None:
            self._tell()
        else:  # or it is just starting this process, and unpickles a store before it forgets what it was told
            util.register_after_fork(self, Exits._tell)
            self._is_told = True

    def _tell(self) -> None:
        from multiprocessing import util

        util.Finalize(None, self.close_all, exitpriority=_LAST)
        self._is_told = True

    def close_all(self) -> None:
        """Tell the watchers now. For whatever ends processes in another way, as Celery does."""
        for watcher in list(self._watchers):
            watcher.close_at_exit()


exits = Exits()
