"""The heads of the queues that one step touches: each is read once, and written once at the end."""

from collections.abc import Iterator
from contextlib import suppress

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.queues.records import HEAD, LARGE, MESSAGE, READY, Head, body_key, topic
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["Heads", "drop", "read_head", "sound"]


def read_head(txn: ReadTransaction, queue: str) -> Head | None:
    """Return the head of a queue, or None if there is no such queue."""
    data = txn.get(HEAD + queue.encode())
    return None if data is None else Head(data)


def sound(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records that are not damaged. The others stay where they are, for `check` to report."""
    with suppress(RecordDamaged):
        yield from pairs


def drop(txn: WriteTransaction, head: Head, key: bytes, record: bytes) -> None:
    """Delete a message that waits in a queue, and take it out of the counts."""
    _, _, _, size, flags = MESSAGE.unpack_from(record)
    txn.delete(key)
    if flags & LARGE:
        txn.delete(body_key(record))
    if key.startswith(READY):
        head.ready -= 1
        head.size -= size
    else:
        head.delayed -= 1


class Heads:
    """The queues of one write transaction, as one step sees them."""

    __slots__ = ("_heads", "_woken", "now", "txn")

    def __init__(self, txn: WriteTransaction) -> None:
        self.txn = txn
        self.now = txn.now()
        self._heads: dict[str, Head | None] = {}
        #: The queues of which consumers are woken; True: all consumers.
        self._woken: dict[str, bool] = {}

    def get(self, queue: str) -> Head | None:
        """Return the head of a queue, or None if there is no such queue. Changes to it are written at the end."""
        try:
            return self._heads[queue]
        except KeyError:
            head = self._heads[queue] = read_head(self.txn, queue)
            return head

    def wake(self, queue: str, *, everyone: bool = False) -> None:
        """Wake a consumer of a queue after the commit, or all of them."""
        self._woken[queue] = everyone or self._woken.get(queue, False)

    def write(self) -> None:
        """Write the heads that have changed. Works in a full store."""
        txn = self.txn
        for queue, head in self._heads.items():
            if head is not None and (data := head.pack()) != head.stored:
                key = HEAD + queue.encode()
                txn.move(key, key, data)
                head.stored = data
        for queue, everyone in self._woken.items():
            txn.notify(topic(queue), one=not everyone)
        self._woken.clear()
