"""The environments of this process: one per file, whichever paths lead to it and however many stores use it."""

import _thread
import atexit
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from lmdbresults.errors import ConfigurationError, NestedTransaction, StoreError
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import gate, is_owned
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.file import lmdb_errors, paths

__all__ = ["environments"]

#: Seconds for which the file of a dropped store may hold up transactions to be closed, and pauses between two tries.
_GATE_TIMEOUT: Final = 0.02
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class EnvironmentRegistry:
    """The environments of this process by path."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}
        self.after_fork_in_child()
        gate.watch_forks(self)

    def after_fork_in_child(self) -> None:
        #: Guards the environments and their number of users; taken inside the gate.
        self._lock = threading.RLock()

    def acquire(self, options: Options, user: object) -> Environment:
        """Return the environment of a file, opened. It is the user's until `release`, or until the user is garbage.

        Raises an `OpenError`, or `ConfigurationError` if the process has the file open in another way.
        """
        path = paths.canonical(options.path)
        with suppress(NestedTransaction):  # in a transaction on another file: then the unused environment is used again
            self._close_unused(path)
        with gate.shared(), self._own_lock():
            environment = self._environments.get(path)
            if environment is None:
                # Known before it is opened: an exception out of a signal handler must not lose an open file.
                environment = self._environments[path] = Environment(
                    options if path == options.path else replace(options, path=path)
                )
            if environment.file.has_been_replaced():
                raise lmdb_errors.file_replaced(path)
            _require_same(environment.options, options)
            reference = weakref.ref(user, partial(_drop_user, environment))
            environment.users.add(reference)
            try:
                environment.file.open()
            except BaseException:  # a signal handler's too, for which the file may be open
                _drop_user(environment, reference)
                raise
        return environment

    def release(self, environment: Environment, user: object) -> None:
        """Release an environment; the last user closes the file."""
        gate.exclusive(lambda: self._release(environment, user))

    def _release(self, environment: Environment, user: object) -> None:
        with self._lock:
            environment.users.discard(weakref.ref(user))
            self._retire(environment)

    def _close_unused(self, path: str) -> None:
        environment = self._environments.get(path)
        if environment is not None and not environment.is_used():
            gate.exclusive(lambda: self._retire(environment))

    def _retire(self, environment: Environment) -> None:
        with self._lock:
            is_known = self._environments.get(environment.path) is environment  # not retired already, and replaced
            if is_known and not environment.is_used() and environment.file.retire():
                del self._environments[environment.path]

    def close_dropped(self) -> None:
        """Close each file whose users are all garbage, unless it gets a new one. For a thread that may wait."""
        for environment in list(self._environments.values()):
            if not environment.is_used():
                self._close_in_time(environment)

    def _close_in_time(self, environment: Environment) -> None:
        """Close a file. Waits for no transaction of others with the gate closed, so it keeps none from beginning."""
        pause = _FIRST_PAUSE
        if environment.file.handle is not None:
            with suppress(StoreError):
                environment.flush()  # the sync, which takes long, while transactions go on
        retire = partial(self._retire, environment)
        while not environment.is_used() and not gate.exclusive(retire, timeout=_GATE_TIMEOUT):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _own_lock(self) -> "threading.RLock":
        if is_owned(self._lock):
            raise NestedTransaction("This thread is opening a store: a signal handler cannot open another one now.")
        return self._lock

    def close_at_exit(self) -> None:
        """Close all files, each after a last checkpoint. The next use of one opens it again."""
        for environment in list(self._environments.values()):
            environment.file.close_at_exit()


def _require_same(present: Options, wanted: Options) -> None:
    for name in ("durability", "max_size", "lock_timeout"):
        if getattr(present, name) != getattr(wanted, name):
            raise ConfigurationError(
                f"{present.path} is open in this process with {name}={getattr(present, name)!r}, so it cannot be "
                f"opened with {name}={getattr(wanted, name)!r}: use the same value, or close the other store first."
            )


def _drop_user(environment: Environment, user: "weakref.ref[object]") -> None:
    """Note that a user is garbage, and have the file closed after the last one.

    This runs in the midst of any code, whose thread may hold any lock. So it takes none, and leaves the work to a
    thread; without one, it is left to the next store that is dropped, the next opening of the file, or the exit.
    """
    environment.users.discard(user)
    if not environment.is_used() and not sys.is_finalizing():
        with suppress(RuntimeError):  # no more threads
            _thread.start_new_thread(environments.close_dropped, ())


environments = EnvironmentRegistry()
atexit.register(environments.close_at_exit)
