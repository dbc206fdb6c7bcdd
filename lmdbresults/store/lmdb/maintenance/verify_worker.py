"""What `verify` runs in a process of its own."""

import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

import lmdb

from lmdbresults.store.lmdb.file.btree import problems_of
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile, State
from lmdbresults.store.lmdb.file.paths import LOCK_SUFFIX
from lmdbresults.store.lmdb.maintenance.check import check
from lmdbresults.store.lmdb.maintenance.check_chords import chord_leftovers
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["main", "problems_in"]

#: So many problems are listed; a file that is damaged all over has millions.
_MOST: Final = 100
#: How often a snapshot is tried for: two commits may overwrite its meta page before that is read.
_TRIES: Final = 100
#: By so much the file may grow between two system calls.
_HEADROOM: Final = 64 << 20


def main(arguments: list[str]) -> None:
    """Print the problems of a file as JSON."""
    (order,) = map(json.loads, arguments)
    found = list(islice(problems_in(order.pop("path"), order.pop("live"), **order), _MOST + 1))
    if len(found) > _MOST:
        found[_MOST] = f"There are more problems; only the first {_MOST} are listed."
    print(json.dumps(found))


def problems_in(path: str, live: bool, *, records: bool, chords: bool) -> Iterator[str]:
    """Yield what is wrong with a file. LMDB reads it only if its pages are in order."""
    try:
        with PageFile(path) as file:
            file.states()  # whose error says more than LMDB's
            for _ in range(_TRIES):
                with _open(path, file, lock=live) as handle, handle.begin() as txn:
                    state = next((state for state in file.states() if state.txn == txn.id()), None)
                    if state is not None:
                        yield from _problems_of_snapshot(file, state, txn, records, chords)
                        return
            yield f"{path} is written to so fast that no snapshot of it can be judged. Try again."
    except (PageDamaged, OSError, lmdb.Error) as error:
        yield f"{path} cannot be read: {error}"


def _problems_of_snapshot(file: PageFile, state: State, txn: Transaction, records: bool, chords: bool) -> Iterator[str]:
    """Judge what a read transaction keeps from being reused: all of its pages but the meta page."""
    broken = list(problems_of(file, state))
    yield from broken
    if records and not broken:
        yield from (problem.text for problem in check(txn, time.time()))
    if chords and not broken:
        yield from chord_leftovers(txn)


def _open(path: str, file: PageFile, *, lock: bool) -> lmdb.Environment:
    return lmdb.open(
        os.fsencode(path),
        map_size=file.size() + _HEADROOM,
        subdir=False,
        readonly=True,
        create=False,
        lock=lock and os.path.lexists(path + LOCK_SUFFIX),  # if there is none, nobody has the file open
        readahead=False,
    )
