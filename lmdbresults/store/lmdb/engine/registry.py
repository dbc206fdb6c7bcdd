"""The environments of this process: one per file, whichever paths lead to it and however many stores use it."""

import atexit
import threading
from dataclasses import replace

from lmdbresults.errors import ConfigurationError, NestedTransaction
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import gate, is_owned
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.file import lmdb_errors, paths

__all__ = ["environments"]


class EnvironmentRegistry:
    """The environments of this process by path."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}
        self.after_fork_in_child()
        gate.watch_forks(self)

    def after_fork_in_child(self) -> None:
        #: Guards the environments and their number of users; taken inside the gate.
        self._lock = threading.RLock()

    def acquire(self, options: Options) -> Environment:
        """Return the environment of a file, opened. The caller must `release` it.

        Raises an `OpenError`, or `ConfigurationError` if the process has the file open in another way.
        """
        path = paths.canonical(options.path)
        with gate.shared(), self._own_lock():
            environment = self._environments.get(path)
            if environment is None or (not environment.users and environment.file.retire()):
                # Known before it is opened: an exception out of a signal handler must not lose an open file.
                environment = self._environments[path] = Environment(
                    options if path == options.path else replace(options, path=path)
                )
            if environment.file.has_been_replaced():
                raise lmdb_errors.file_replaced(path)
            _require_same(environment.options, options)
            environment.file.open()
            environment.users += 1
        return environment

    def release(self, environment: Environment) -> None:
        """Release an environment; the last user closes the file."""
        gate.exclusive(lambda: self._drop_user(environment))

    def _drop_user(self, environment: Environment) -> None:
        with self._lock:
            environment.users -= 1
            if not environment.users and environment.file.retire():
                del self._environments[environment.path]

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


environments = EnvironmentRegistry()
atexit.register(environments.close_at_exit)
