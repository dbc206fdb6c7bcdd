"""What is left of chords in a store."""

from contextlib import suppress

from lmdbresults import Store
from lmdbresults.store import ReadTransaction
from lmdbresults.store.chords import head_of


def leftovers(store: Store) -> list[bytes]:
    """Return the keys of chords and groups, but for the marks of chords that have ended."""
    with store.read() as txn:
        keys = [key for prefix in (b"chord-unlock-", b"celery-taskset-meta-") for key, _ in txn.scan(prefix)]
        return [key for key in keys if not _is_mark(txn, key)]


def _is_mark(txn: ReadTransaction, key: bytes) -> bool:
    with suppress(TypeError, ValueError):
        head = head_of(txn, key)
        return head is not None and head.has_ended()
    return False
