"""The upgrade of a file of format 1, as it is opened.

Records of format 1 stay as they are: they tell their format, and are replaced or expire in time. So two steps are left:

1. The file is marked as one of format 2, in one transaction, while no other process has it open: a program that knows
   only format 1 reads the mark when it opens the file, and refuses it from then on.
2. The entries of the expiry index are deleted in batches. Nothing depends on them. A process that is killed meanwhile
   leaves the rest to the next one that opens the file.
"""

import time
import weakref
from itertools import islice
from typing import Final

from lmdbresults.errors import OpenError
from lmdbresults.options import Options
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.engine.registry import environments
from lmdbresults.store.lmdb.file.format import FORMAT_KEY, FORMAT_VERSION, mark, version_of
from lmdbresults.store.lmdb.records.layout import INDEX_1
from lmdbresults.store.lmdb.records.sweeper import Batches
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["acquire", "upgrade"]

#: Seconds in which another process may upgrade the same file, and between two tries.
_PATIENCE: Final = 1.0
_PAUSE: Final = 0.01


#: Environments whose file has the present format. Opening another store on one needs no transaction.
_upgraded: Final[weakref.WeakSet[Environment]] = weakref.WeakSet()


def acquire(options: Options, user: object) -> Environment:
    """Return the environment of a file, opened and of the present format; see `environments.acquire`.

    Raises an `OpenError`, also if the file has format 1 and another process has it open.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        environment = environments.acquire(options, user)
        try:
            is_done = environment in _upgraded or upgrade(environment)
        except BaseException:
            environments.release(environment, user)
            raise
        if is_done:
            _upgraded.add(environment)
            return environment
        environments.release(environment, user)
        if time.monotonic() > until:
            raise OpenError(
                f"{options.path} has format 1, and another process has it open, perhaps by an lmdbresults that knows "
                "no other. Stop every process that uses it, then try again: opening it upgrades it."
            )
        time.sleep(_PAUSE)


def upgrade(environment: Environment) -> bool:
    """Upgrade a file if it needs that. Return False, with nothing done, if another process has it open."""
    is_marked, is_clean = environment.read(_state)
    if not is_marked:
        try:
            if not environment.write(_mark, environment):
                return False
        finally:
            environment.file.share()
    if not is_clean:
        batches = Batches(environment)
        while batches.run(_delete_entries):
            pass
    return True


def _state(txn: Transaction) -> tuple[bool, bool]:
    """Return whether the file is marked as one of the present format, and whether it has no index."""
    is_marked = version_of(txn.get(FORMAT_KEY)) == FORMAT_VERSION
    return is_marked, not txn.cursor().set_range(INDEX_1)


def _mark(txn: Transaction, environment: Environment) -> bool:
    if not environment.file.exclude():
        return False
    environment.file.reserve_for_delete(txn)
    mark(txn)
    return True


def _delete_entries(txn: Transaction, count: int) -> int:
    """Delete up to ``count`` entries of the index; return how many."""
    cursor = txn.cursor()
    entries = list(islice(cursor.iternext(values=False), count)) if cursor.set_range(INDEX_1) else []
    for entry in entries:
        txn.delete(entry)
    return len(entries)
