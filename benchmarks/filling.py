"""Files that hold many results, made fast: thousands in one transaction of the store's own."""

import os
import shutil
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from benchmarks.peers.base import RESULT
from lmdbresults.app import Request
from lmdbresults.backends import LMDBBackend
from lmdbresults.options import options_from_url

#: Results in a transaction: in the order of their keys they touch few pages twice.
BATCH = 50_000
DAY = 86_400.0

Numbered = Callable[[int], str]
"""The id of a result by its number."""


def random_id(number: int) -> str:
    """As Celery makes them, but known by its number."""
    digits = blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ordered_id(number: int) -> str:
    """Ascending, as of UUIDs of version 7."""
    return f"{number:08x}-0000-7000-8000-000000000000"


def fill(
    path: Path,
    numbers: range,
    id_of: Numbered = random_id,
    *,
    age: float = 0.0,
    step: Callable[[str], None] = lambda text: None,
) -> None:
    """Add results that were stored ``age`` seconds ago, to expire a day after that."""
    backend = LMDBBackend(path, options=options_from_url(path, durability="none", clock=lambda: time.time() - age))
    record = backend._record(RESULT, "SUCCESS", None, Request("any", "tasks.answer", (6, 7)))
    for start in range(0, len(numbers), BATCH):
        step(f"filling {numbers[start]:,}/{numbers.stop:,}")
        keys = sorted(backend.get_key_for_task(id_of(number)) for number in numbers[start : start + BATCH])
        backend.store.update(lambda txn, keys=keys: [txn.set(key, record, DAY) for key in keys])  # type: ignore[misc]
    backend.process_cleanup()


def copy(source: Path, target: Path) -> None:
    """Copy a store's file that nobody has open."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    _sync(target)


def move(source: Path, target: Path) -> None:
    """Move a store's file that nobody has open, without what lies beside it."""
    source.rename(target)
    _sync(target)


def _sync(path: Path) -> None:
    """Have it on disk: nothing is left to write while others measure."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
