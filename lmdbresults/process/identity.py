"""The identity of a process and whether it is alive. Its start time tells it from a later process with the same number.

A lease narrows that to a block of code: a claim that was taken in the block is orphaned when the block ends, even if an
exception out of a signal handler ends it between the commit of the claim and the next line.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from lmdbresults.process import boot

__all__ = ["NO_OWNER", "Owner", "current_owner", "describe", "lease"]

#: The leases that are running in this process. A set is changed in one step, so no lock guards it.
_leases: Final[set[str]] = set()
_lease: Final[ContextVar[str]] = ContextVar("lease", default="")


@contextmanager
def lease() -> Iterator[None]:
    """Have `current_owner` return an owner that is alive only until the block ends."""
    name, former = os.urandom(8).hex(), _lease.get()
    try:
        _leases.add(name)
        _lease.set(name)
        yield
    finally:
        _leases.discard(name)
        _lease.set(former)


class Owner(NamedTuple):
    """A process on this machine, in this boot of it."""

    pid: int
    started: str
    """Start time in clock ticks since the boot; empty if unknown."""
    boot: str
    """Id of the boot; empty if unknown."""
    lease: str = ""
    """Name of a lease in the process; empty: the process itself."""

    def is_alive(self) -> bool:
        """Return whether the process, and its lease if it has one, still runs. If only the pid is known: yes."""
        if not self.pid or self.boot != boot.boot_id():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # the process of another user
        started = _start_time(self.pid)
        if started and self.started and started != self.started:
            return False
        return not self.lease or self.pid != os.getpid() or self.lease in _leases


#: An owner that is never alive.
NO_OWNER = Owner(0, "", "")


def current_owner() -> Owner:
    """Return this process, with the lease that runs here."""
    owner, name = _process(os.getpid()), _lease.get()
    return owner._replace(lease=name) if name else owner


@functools.lru_cache(maxsize=1)
def _process(pid: int) -> Owner:
    return Owner(pid, _start_time(pid), boot.boot_id())


def _start_time(pid: int) -> str:
    """Return when a process started; empty if unknown, "ended" if it is a zombie."""
    stat = _read(f"/proc/{pid}/stat")
    state, *fields = stat.rpartition(")")[2].split() or [""]  # after the name, which may contain anything
    if len(fields) <= 18:
        return ""
    return "ended" if state in "ZX" else fields[18]


def describe(thread_id: int) -> str:
    """Return "process 12 (name)" for the process of a thread, and whether it is stopped, as far as that is known."""
    lines = _read(f"/proc/{thread_id}/status").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    pid = int(fields.get("Tgid", thread_id))
    stopped = ", stopped" if fields.get("State", "").startswith(("T", "t")) else ""
    return "this process" if pid == os.getpid() else f"process {pid} ({fields.get('Name', 'name unknown')}{stopped})"


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
