"""The records that chords have left in a store."""

from contextlib import suppress

from lmdbresults import Store
from lmdbresults.store import ReadTransaction
from lmdbresults.store.chord_records import Head, read_head


def leftovers(store: Store) -> list[bytes]:
    """Return the keys of chords and groups, without the markers of ended chords.

    And but for chords to which no part was ever returned: Celery begins one for a group at the end of a chain in a
    header, and then counts its tasks as parts of the outer chord.
    """

    def look(txn: ReadTransaction) -> tuple[list[bytes], dict[bytes, Head]]:
        keys = [key for prefix in (b"chord-unlock-", b"celery-taskset-meta-") for key, _ in txn.scan(prefix)]
        return keys, {key: head for key in keys if (head := _head(txn, key)) is not None}

    keys, heads = store.view(look)
    unused = tuple(key + b"." for key, head in heads.items() if not head.returned)
    return [key for key in keys if not (_is_done(heads[key]) if key in heads else key.startswith(unused))]


def _is_done(head: Head) -> bool:
    return head.has_ended() or not head.returned


def _head(txn: ReadTransaction, key: bytes) -> Head | None:
    with suppress(TypeError, ValueError):
        return read_head(txn, key)
    return None
