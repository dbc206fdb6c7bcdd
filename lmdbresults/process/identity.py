"""Who holds a claim: a process, told from a later one with the same number by when it began.

And in it a block of code, told from others by a name: an exception of a signal handler may end that at any moment, also
between the commit that takes a claim and the first line that knows of it.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from lmdbresults.process import boot

__all__ = ["NOBODY", "Owner", "holding", "present_owner"]

#: The blocks that are being run in this process; a set is changed in one step, so no lock guards it.
_blocks: Final[set[str]] = set()
_block: Final[ContextVar[str]] = ContextVar("block", default="")


@contextmanager
def holding() -> Iterator[None]:
    """Have claims that are taken in the block die with it, at the latest."""
    name, former = os.urandom(8).hex(), _block.get()
    try:
        _blocks.add(name)
        _block.set(name)
        yield
    finally:
        _blocks.discard(name)
        _block.set(former)


class Owner(NamedTuple):
    """A process on this machine, in this boot of it."""

    pid: int
    started: str
    """When it began, in clock ticks since the boot; empty where the system does not tell."""
    boot: str
    """Id of the boot, likewise."""
    block: str = ""
    """What holds it in the process; empty: the process itself."""

    def is_alive(self) -> bool:
        """Return whether the process still runs. One of which nothing but the number is known counts as alive."""
        if not self.pid or self.boot != boot.boot_id():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # of another user
        started = _started(self.pid)
        if started and self.started and started != self.started:  # one of another user may be kept secret
            return False
        return not self.block or self.pid != os.getpid() or self.block in _blocks


#: Owns what has been given up.
NOBODY = Owner(0, "", "")


def present_owner() -> Owner:
    """Return this process, and the block of `holding` that runs here."""
    return _owner(os.getpid())._replace(block=_block.get())


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    return Owner(pid, _started(pid), boot.boot_id())


def _started(pid: int) -> str:
    """Return when a process began; empty if nobody knows, "ended" if it has ended but for its parent's noticing."""
    _, _, fields = _read(f"/proc/{pid}/stat").rpartition(")")  # before it stands the name, which may hold anything
    state_to_end = fields.split()
    if len(state_to_end) <= 19:
        return ""
    return "ended" if state_to_end[0] in "ZX" else state_to_end[19]


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
