"""Files with many results, filled fast: thousands in one transaction."""

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

#: Results in one transaction. In the order of their keys they share many pages.
BATCH = 50_000
DAY = 86_400.0

IdOf = Callable[[int], str]
"""The id of a result by its number."""


def random_id(number: int) -> str:
    """Return an id like Celery's, computed from a number."""
    digits = blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ordered_id(number: int) -> str:
    """Return ascending ids, like UUIDs of version 7."""
    return f"{number:08x}-0000-7000-8000-000000000000"


def fill(
    path: Path, numbers: range, id_of: IdOf = random_id, *, age: float = 0.0, step: Callable[[str], None] | None = None
) -> None:
    """Add results that were stored ``age`` seconds ago and expire a day after that."""
    backend = LMDBBackend(path, options=options_from_url(path, durability="none", clock=lambda: time.time() - age))
    backend.store_result("any", RESULT, "SUCCESS", request=Request("any", "tasks.answer", (6, 7)))
    record = backend.store.get(backend.get_key_for_task("any"))
    backend.forget("any")
    for start in range(0, len(numbers), BATCH):
        if step is not None:
            step(f"filling {numbers[start]:,}/{numbers.stop:,}")
        keys = sorted(backend.get_key_for_task(id_of(number)) for number in numbers[start : start + BATCH])
        backend.store.update(lambda txn, keys=keys: [txn.set(key, record, DAY) for key in keys])  # type: ignore[misc]
    backend.process_cleanup()


def copy(source: Path, target: Path) -> None:
    """Copy the file of a store that no process has open."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    _sync(target)


def move(source: Path, target: Path) -> None:
    """Move the file of a store that no process has open, without the files beside it."""
    source.rename(target)
    _sync(target)


def _sync(path: Path) -> None:
    """Write a file to disk, so that this does not happen during a measurement."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
