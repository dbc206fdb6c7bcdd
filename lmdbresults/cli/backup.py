"""``lmdbresults backup``"""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import progress, say, say_json
from lmdbresults.store import LMDBStore, WriteTransaction
from lmdbresults.store.base import Progress
from lmdbresults.store.lmdb.maintenance.backup import refuse_target

__all__ = ["backup"]

#: All records of queues begin with it.
_QUEUES: Final = b"queue-"
#: Records deleted in one transaction.
_BATCH: Final = 1000


@click.command()
@options.path
@click.argument("copy", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file once the copy is complete.")
@click.option("--results-only", is_flag=True, help="Leave queues out. Takes the space of a second copy meanwhile.")
@options.as_json
def backup(path: Any, copy: str, overwrite: bool, results_only: bool, as_json: bool) -> None:
    """Copy a store to a file, as of one moment, while other processes use it.

    To restore, open the copy, or move it to the path of a store that no process has open. The copy has mode 0600.

    Workers that open a copy run its waiting tasks again, unless it was made with --results-only.
    """
    with opened(existing(path)) as store, progress("copying") as report:
        if results_only:
            _back_up_results(store, copy, overwrite, report)
        else:
            store.backup(copy, overwrite=overwrite, progress=report)
    size = os.path.getsize(copy)
    if as_json:
        say_json({"path": copy, "bytes": size})
    else:
        say(f"{copy}: copied, {size} bytes.")


def _back_up_results(store: LMDBStore, copy: str, overwrite: bool, report: Progress | None) -> None:
    """Copy everything, delete the queues in the copy, and copy what is left: so the file appears complete."""
    target = os.path.abspath(copy)
    refuse_target(store.options.path, target, overwrite)
    with TemporaryDirectory(prefix=f"{target}.") as folder:
        whole = os.path.join(folder, "whole")
        store.backup(whole, progress=report)
        with LMDBStore(replace(store.options, path=whole, durability="none")) as draft:
            while keys := [key for key, _ in islice(draft.scan(_QUEUES, head=0), _BATCH)]:
                draft.update(partial(_delete, keys))
            draft.backup(target, overwrite=overwrite)


def _delete(keys: Iterable[bytes], txn: WriteTransaction) -> None:
    for key in keys:
        txn.delete(key)
