"""Who holds a claim: a process, told from a later one with the same number by when it began."""

import functools
import os
from typing import NamedTuple

__all__ = ["NOBODY", "Owner", "present_owner"]


class Owner(NamedTuple):
    """A process on this machine, in this boot of it."""

    pid: int
    started: str
    """When it began, in clock ticks since the boot; empty where the system does not tell."""
    boot: str
    """Id of the boot, likewise."""

    def is_alive(self) -> bool:
        """Return whether the process still runs. One of which nothing but the number is known counts as alive."""
        if not self.pid or self.boot != _boot():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # of another user
        return self.started == _started(self.pid)


#: Owns what has been given up.
NOBODY = Owner(0, "", "")


def present_owner() -> Owner:
    """Return this process."""
    return _owner(os.getpid())


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    return Owner(pid, _started(pid), _boot())


@functools.cache
def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _started(pid: int) -> str:
    """Return when a process began; empty if it is gone, has ended but for its parent's noticing, or nobody knows."""
    _, _, fields = _read(f"/proc/{pid}/stat").rpartition(")")  # before it stands the name, which may hold anything
    state_to_end = fields.split()
    return state_to_end[19] if len(state_to_end) > 19 and state_to_end[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
