"""What the tests store, how long its keys are, and each operation of a store once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import shake_128
from typing import Final, TypeVar

from lmdbresults.store.base import ReadTransaction, Store, WriteTransaction

__all__ = ["KEY_LENGTHS", "READING", "SIZES", "VERBS", "WRITING", "in_threads", "sample"]

Result = TypeVar("Result")

#: Sizes around the limits of a store: nothing, a memory page, four of them with and without headers, hundreds of them.
SIZES: Final = (0, 1, 4096, 16354, 16355, 16356, 16367, 16368, 16369, 32736, 32737, 1 << 20, 5_000_001)
#: Lengths around the 511 bytes that LMDB allows, and beyond four pages.
KEY_LENGTHS: Final = (0, 1, 500, 501, 502, 511, 512, 4000, 17000)

READING: Final[dict[str, Callable[[ReadTransaction], object]]] = {
    "get": lambda txn: txn.get(b"key"),
    "mget": lambda txn: txn.mget([b"key"]),
    "ttl": lambda txn: txn.ttl(b"key"),
    "now": lambda txn: txn.now(),
    "scan": lambda txn: list(txn.scan()),
    "range": lambda txn: list(txn.range()),
}
WRITING: Final[dict[str, Callable[[WriteTransaction], object]]] = {
    "set": lambda txn: txn.set(b"key", b"2"),
    "add": lambda txn: txn.add(b"new", b"2"),
    "move": lambda txn: txn.move(b"key", b"new", b"2"),
    "delete": lambda txn: txn.delete(b"key"),
    "incr": lambda txn: txn.incr(b"key"),
    "expire": lambda txn: txn.expire(b"key", 1.0),
    "notify": lambda txn: txn.notify(b"key"),
}
VERBS: Final[dict[str, Callable[[Store], object]]] = {
    **READING,
    **WRITING,
    "view": lambda store: store.view(lambda txn: None),
    "update": lambda store: store.update(lambda txn: None),
}


def sample(size: int, seed: int = 0) -> bytes:
    """Return bytes of a given length, the same each time, in which no part repeats another."""
    return shake_128(b"%d" % seed).digest(size)


def in_threads(count: int, work: Callable[[], Result]) -> list[Result]:
    """Run the same work in so many threads at once; return what each returned."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]
