"""Seeing at once that other processes have exited, where the kernel can tell: Linux."""

import os
import select
from collections.abc import Iterable
from contextlib import suppress

from lmdbresults.process.identity import Owner

__all__ = ["DeathWatch"]


class DeathWatch:
    """A descriptor that becomes readable when one of the watched processes exits.

    Not for several threads at once. It costs a descriptor for each process. Where the kernel has no such descriptors,
    or none are left, nothing is watched: so look now and then as well.
    """

    def __init__(self) -> None:
        self._poll = select.epoll() if hasattr(select, "epoll") and hasattr(os, "pidfd_open") else None
        #: The descriptor of each process.
        self._descriptors: dict[Owner, int] = {}

    def fileno(self) -> int:
        """Return the descriptor, which stays the same; -1 if there is none."""
        return -1 if self._poll is None or self._poll.closed else self._poll.fileno()

    def watch(self, owners: Iterable[Owner]) -> bool:
        """Watch these processes and no others; return whether one of them is dead already.

        Processes that have exited are dead, and no longer watched: `fileno` is readable for those that exit from now
        on.
        """
        if self.fileno() < 0:
            return False
        wanted = {owner for owner in owners if owner.pid != os.getpid()}
        for owner in self._descriptors.keys() - wanted:
            self._forget(owner)
        is_any_dead = False
        for owner in wanted - self._descriptors.keys():
            with suppress(OSError):  # no such process, or no descriptor is left
                self._descriptors[owner] = os.pidfd_open(owner.pid)
            if not owner.is_alive():  # looked at after the descriptor leads to a process: its number may be used again
                is_any_dead = True
                self._forget(owner)
            elif owner in self._descriptors and self._poll is not None:
                self._poll.register(self._descriptors[owner], select.EPOLLIN)
        return self.drain() or is_any_dead

    def drain(self) -> bool:
        """Make `fileno` unreadable; return whether a process has exited."""
        if self._poll is None or self._poll.closed:
            return False
        exited = {descriptor for descriptor, _ in self._poll.poll(0)}
        for descriptor in exited:
            self._poll.unregister(descriptor)
        return bool(exited)

    def close(self) -> None:
        """Close all descriptors. Closing twice is fine."""
        for owner in list(self._descriptors):
            self._forget(owner)
        if self._poll is not None:
            self._poll.close()

    def _forget(self, owner: Owner) -> None:
        descriptor = self._descriptors.pop(owner, -1)
        if descriptor >= 0:
            os.close(descriptor)  # which takes it out of the poll
