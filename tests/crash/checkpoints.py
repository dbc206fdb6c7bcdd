"""The checkpoints of a recorded store, by what was written to its sidecar: a power cut goes back to one of them."""

from typing import NamedTuple

from lmdbresults.store.lmdb.durability import sidecar
from lmdbresults.store.lmdb.file import paths
from tests.crash.recording import Event, Kind

__all__ = ["Checkpoint", "Reach", "checkpoints_of", "within_reach"]


class Checkpoint(NamedTuple):
    """A checkpoint, and when it came about, by places in the log."""

    commit: int
    """The number that LMDB has given to the commit."""
    is_logged: bool
    """Whether later commits are written to the store's log."""
    written: int
    """When it was written, so it may be on the disk."""
    durable: float
    """When the sync had come to its end, so it is; infinity if it never had."""


def checkpoints_of(events: list[Event]) -> list[Checkpoint]:
    """Return the checkpoints that were made, in the order in which they were written."""
    found: list[Checkpoint] = []
    for event in events:
        if not event.path.endswith(paths.CHECKPOINT_SUFFIX):
            continue
        if event.kind is Kind.WRITE:
            made = sidecar.Checkpoint.unpack(bytes(event.data))
            if made is not None and made.is_pinned:
                found.append(Checkpoint(made.txn, made.is_logged, event.place, float("inf")))
        elif event.kind is Kind.SYNC_END:
            found = [
                made._replace(durable=min(made.durable, event.place)) if made.written < event.offset else made
                for made in found
            ]
    return found


class Reach(NamedTuple):
    """The commits to one of which a power cut must go back."""

    commits: set[int]
    """The last durable checkpoint, and those that were written after it."""
    is_open: bool
    """Whether any later commit will do as well, because there is a log of them."""


def within_reach(checkpoints: list[Checkpoint], cut: int) -> Reach:
    """Return to which commits a power cut may go back."""
    least = max((made.commit for made in checkpoints if made.durable < cut), default=0)
    written = [made for made in checkpoints if made.written < cut]
    return Reach(
        {least} | {made.commit for made in written if made.commit > least}, any(made.is_logged for made in written)
    )
