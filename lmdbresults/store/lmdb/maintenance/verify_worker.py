"""What `verify` runs in a subprocess."""

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import Final

import lmdb

from lmdbresults.store.lmdb.file.btree import problems_of
from lmdbresults.store.lmdb.file.meta import Meta
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile
from lmdbresults.store.lmdb.file.paths import LOCK_SUFFIX
from lmdbresults.store.lmdb.maintenance.check import check
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["main", "problems_in"]

#: The most problems that are listed; a badly damaged file has millions.
_MOST: Final = 100
#: Attempts to take a snapshot: two commits in between overwrite its meta page.
_ATTEMPTS: Final = 100
#: Bytes by which the file may grow between two system calls.
_HEADROOM: Final = 64 << 20


def main(arguments: list[str]) -> None:
    """Print the problems of a file as JSON."""
    (order,) = map(json.loads, arguments)
    found = list(islice(problems_in(order["path"], order["live"], order["records"]), _MOST + 1))
    if len(found) > _MOST:
        found[_MOST] = f"There are more problems; only the first {_MOST} are listed."
    print(json.dumps(found))


def problems_in(path: str, live: bool, records: bool) -> Iterator[str]:
    """Yield the problems of a file. LMDB reads its records only if its pages are sound."""
    try:
        with PageFile(path) as file:
            file.states()  # fails with a clearer error than LMDB's
            for _ in range(_ATTEMPTS):
                with _open(path, file, lock=live) as handle, handle.begin() as txn:
                    state = next((state for state in file.states() if state.txn == txn.id()), None)
                    if state is not None:
                        yield from _problems_of_snapshot(file, state, txn, records)
                        return
            yield f"{path} changes too fast to take a snapshot of it. Try again."
    except (PageDamaged, OSError, lmdb.Error) as error:
        yield f"{path} cannot be read: {error}"


def _problems_of_snapshot(file: PageFile, state: Meta, txn: Transaction, records: bool) -> Iterator[str]:
    """Yield the problems of a snapshot, whose pages (except the meta page) the transaction keeps from being reused."""
    broken = list(problems_of(file, state))
    yield from broken
    if records and not broken:
        yield from (problem.text for problem in check(txn))


def _open(path: str, file: PageFile, *, lock: bool) -> lmdb.Environment:
    return lmdb.open(
        os.fsencode(path),
        map_size=file.size() + _HEADROOM,
        subdir=False,
        readonly=True,
        create=False,
        lock=lock and os.path.lexists(path + LOCK_SUFFIX),  # without a lock file, no process has the file open
        readahead=False,
    )
