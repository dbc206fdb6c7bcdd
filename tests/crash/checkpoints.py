"""The checkpoints of a recorded store, by what was written to its sidecar: a power cut goes back to one of them."""

from typing import NamedTuple

from lmdbresults.store.lmdb.durability import sidecar
from lmdbresults.store.lmdb.file import paths
from tests.crash.recording import Event, Kind

__all__ = ["Checkpoint", "checkpoints_of", "commits_within_reach"]


class Checkpoint(NamedTuple):
    """A checkpoint, and when it came about, by places in the log."""

    commit: int
    """The number that LMDB has given to the commit."""
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
                found.append(Checkpoint(made.txn, event.place, float("inf")))
        elif event.kind is Kind.SYNC_END:
            found = [
                made._replace(durable=min(made.durable, event.place)) if made.written < event.offset else made
                for made in found
            ]
    return found


def commits_within_reach(checkpoints: list[Checkpoint], cut: int) -> set[int]:
    """Return the commits to one of which a power cut must go back: the last durable one, or one that was written."""
    least = max((made.commit for made in checkpoints if made.durable < cut), default=0)
    return {least} | {made.commit for made in checkpoints if made.written < cut and made.commit > least}
