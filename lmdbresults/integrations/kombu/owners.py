"""The other processes that hold messages: when one dies, its messages return to their queues at once."""

import os
from collections.abc import Callable, Iterable

from lmdbresults.process.identity import Owner
from lmdbresults.store.lmdb.store import LMDBStore

__all__ = ["OwnerWatch"]


class OwnerWatch:
    """A descriptor for each owner, which becomes readable when the owner dies. One thread uses it."""

    def __init__(self, store: LMDBStore) -> None:
        self._queues = store.queues
        self._descriptors: dict[Owner, int] = {}
        #: Called with a descriptor that was opened, and with one that is closed next: for an event loop.
        self.on_open: Callable[[int], object] = _ignore
        self.on_close: Callable[[int], object] = _ignore

    def descriptors(self) -> Iterable[int]:
        """Return the descriptors of all owners."""
        return self._descriptors.values()

    def refresh(self) -> None:
        """Watch the owners that exist now."""
        present = set(self._queues.owners())
        for owner in self._descriptors.keys() - present:
            self._close(owner)
        for owner in present - self._descriptors.keys():
            descriptor = _open_pidfd(owner)
            if descriptor is not None:
                self._descriptors[owner] = descriptor
                self.on_open(descriptor)

    def recover(self) -> None:
        """Return the messages of dead owners to their queues. Reads only if there are none."""
        self._queues.recover()
        self.refresh()

    def _close(self, owner: Owner) -> None:
        descriptor = self._descriptors.pop(owner)
        self.on_close(descriptor)
        os.close(descriptor)

    def forget(self) -> None:
        """Close the descriptors, which a forked child has inherited, without a word to the event loop of the parent."""
        self.on_open = self.on_close = _ignore
        self.close()

    def close(self) -> None:
        """Watch no owner any more."""
        for owner in list(self._descriptors):
            self._close(owner)


def _ignore(descriptor: int) -> None:
    """Do nothing."""


def _open_pidfd(owner: Owner) -> int | None:
    """Return a descriptor that becomes readable when a process dies; None if there is none, as when it is dead."""
    try:
        descriptor = os.pidfd_open(owner.pid)
    except (AttributeError, OSError):  # before Linux 5.3, or refused
        return None
    if owner.is_alive():
        return descriptor
    os.close(descriptor)  # the number is another process' by now
    return None
