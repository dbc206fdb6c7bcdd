"""Pins: the read transactions that keep the pages of checkpoints from reuse, in LMDB's reader table."""

from typing import TYPE_CHECKING, Final

from lmdbresults.store.lmdb.durability.sidecar import Checkpoint
from lmdbresults.store.lmdb.file.reader_table import LOGGED_PIN, PIN, ReaderTable
from lmdbresults.store.lmdb.types import Transaction

if TYPE_CHECKING:
    import lmdb

__all__ = ["NO_LINE", "Pins"]

#: Sentinel: a string that LMDB's reader table never contains.
NO_LINE: Final = "\0"


class Pins:
    """The pins of all processes that have a file open. Those of a file that is logged have a label of their own."""

    def __init__(self, handle: "lmdb.Environment", readers: ReaderTable) -> None:
        self._handle = handle
        self._readers = readers
        #: Whether pins can be distinguished from other readers, and freed.
        self.are_labelled = readers.has_labels

    def begin(self, checkpoint: Checkpoint) -> Transaction:
        """Pin the last commit, which a checkpoint is of."""
        return self._readers.begin(_label(checkpoint))

    def line_of(self, checkpoint: Checkpoint) -> str:
        """Return the line of a checkpoint's pin in LMDB's reader table, from the label on; `NO_LINE` if it has none."""
        table, pin = self._handle.readers(), f" {_label(checkpoint):x} {checkpoint.txn}\n"
        if pin in table:
            return pin
        if self.are_labelled:  # another reader keeps the pages as well, but does not say whether the file is logged
            return NO_LINE
        found = (line for line in table.splitlines() if line.endswith(f" {checkpoint.txn}"))
        return next((f"\n{line}\n" for line in found), NO_LINE)

    def exists(self, checkpoint: Checkpoint) -> bool:
        """Return whether a process pins a checkpoint."""
        return self.line_of(checkpoint) != NO_LINE

    def free_stale(self, txn: Transaction, durable: Checkpoint) -> None:
        """Free older pins than that of a durable checkpoint, in all processes, if that has a pin or is the last commit.

        The write transaction is open, so no writer is between its look for a pin and its commit.
        """
        last = txn.id() - 1
        for reader in self._readers.readers():
            is_older = reader.is_pin and reader.txn < durable.txn
            is_stale = is_older or (reader.label == PIN and durable.is_logged)
            if is_stale and (durable.txn == last or self.exists(durable)):
                self._readers.free(reader, last)


def _label(checkpoint: Checkpoint) -> int:
    return LOGGED_PIN if checkpoint.is_logged else PIN
