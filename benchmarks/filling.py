"""Files with many results, filled fast: thousands in one transaction."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.peers import plain

#: Results in one transaction. In the order of their keys they share many pages.
BATCH = 50_000
DAY = 86_400.0

IdOf = Callable[[int], str]
"""The id of a result by its number."""
Expiring = tuple[str, float]
"""The id of a result, and its time to live in seconds."""


def random_id(number: int) -> str:
    """Return an id like Celery's, computed from a number."""
    digits = blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ordered_id(number: int) -> str:
    """Return ascending ids, like UUIDs of version 7."""
    return f"{number:08x}-0000-7000-8000-000000000000"


def batches(results: Iterable[Expiring]) -> Iterator[list[Expiring]]:
    """Yield what is filled in one transaction each."""
    rest = iter(results)
    while batch := list(islice(rest, BATCH)):
        yield sorted(batch)


def fill(client: Any, results: Iterable[Expiring], step: Callable[[str], None] = lambda text: None) -> None:
    """Store copies of one result through a client of lmdbresults."""
    client.store(client.request("any"))
    key_of, store = client.backend.get_key_for_task, client.backend.store
    record = store.get(key_of("any"))
    client.forget("any")
    for number, batch in enumerate(batches(results)):
        step(f"filling {number * BATCH:,}")
        store.update(lambda txn, batch=batch: [txn.set(key_of(task_id), record, ttl) for task_id, ttl in batch])


def fill_file(
    path: Path, numbers: range, step: Callable[[str], None], id_of: IdOf = random_id, *, age: float = 0.0
) -> None:
    """Add results that were stored ``age`` seconds ago and expire a day after that."""
    client = plain.NONE.open(path.parent, file=path.name, clock=lambda: time.time() - age)
    fill(client, ((id_of(number), DAY) for number in numbers), step)
    client.close()


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
