"""Which processes are alive, over many machines.

On the machine of a process, and in its PID namespace, the process table tells at once. Elsewhere its lease does: a
thread of the process renews it, and it runs out some seconds after the process has died or stopped.
"""

import functools
import logging
import socket
import threading
import time
import weakref

from lmdbresults.errors import ResultError
from lmdbresults.process.boot import boot_id, pid_namespace
from lmdbresults.process.fork_gate import gate
from lmdbresults.process.identity import Owner, current_owner
from lmdbresults.store.redis.layout import Layout
from lmdbresults.store.redis.server import Script, Server

__all__ = ["Leases"]

logger = logging.getLogger(__name__)

#: KEYS: leases. ARGV: process, milliseconds. Scores are when leases end, by the clock of the server.
_RENEW = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400000)
return 1
""")
#: KEYS: leases. ARGV: process.
_IS_HELD = Script("""
local time = redis.call('TIME')
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
return ends and tonumber(ends) > time[1] * 1000 + math.floor(time[2] / 1000) and 1 or 0
""")


@functools.cache
def _machine() -> str:
    """Return what processes have in common that see each other: the boot of their machine, and the PID namespace."""
    return f"{boot_id() or socket.gethostname()}/{pid_namespace()}"


class Leases:
    """The lease of this process, and those of others. It is taken when this process first owns something."""

    def __init__(self, server: Server, layout: Layout) -> None:
        self._server = server
        self._name = layout.special(b"leases")
        self._seconds = server.options.owner_lease
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        #: Set to end the thread. Its lock, too, must be a new one in a child.
        self._stopped = threading.Event()
        self._renewed_at = -self._seconds
        self._thread: threading.Thread | None = None

    def after_fork_in_child(self) -> None:
        """Take a lease of its own when it is needed."""
        self._reset()

    def owner(self) -> Owner:
        """Return what this process owns claims by, once its lease is taken."""
        if time.monotonic() >= self._renewed_at + self._seconds / 2:  # the first time, or after it was stopped
            self.renew()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    arguments = (weakref.ref(self), self._stopped, self._seconds / 3)
                    self._thread = threading.Thread(target=_keep, args=arguments, name="lmdbresults-lease", daemon=True)
                    self._thread.start()
        return current_owner()._replace(boot=_machine())

    def is_alive(self, owner: Owner) -> bool:
        """Return whether an owner still runs, as far as that can be known here."""
        if not owner.pid:
            return False
        if owner.boot == _machine():
            return owner._replace(boot=boot_id()).is_alive()
        return bool(self._server.run(_IS_HELD, [self._name], _process(owner)))

    def renew(self) -> None:
        """Put off the end of the lease of this process."""
        now, owner = time.monotonic(), current_owner()._replace(boot=_machine())
        self._server.run(_RENEW, [self._name], _process(owner), round(self._seconds * 1000))
        self._renewed_at = now

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()


def _process(owner: Owner) -> str:
    return f"{owner.boot} {owner.pid} {owner.started}"


def _keep(leases: "weakref.ref[Leases]", stopped: threading.Event, pause: float) -> None:
    """Renew a lease until its store is closed or garbage."""
    while not stopped.wait(pause):
        held = leases()
        if held is None:
            return
        try:
            held.renew()
        except ResultError as error:  # also of a sentinel that knows the master no more: it may again
            logger.warning("The lease of this process was not renewed: %s", error)
        del held
