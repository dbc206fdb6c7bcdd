"""``lmdbresults backup``"""

import os

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import progress, say

__all__ = ["backup"]


@click.command()
@click.argument("path")
@click.argument("copy", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already, once the copy is complete.")
def backup(path: str, copy: str, overwrite: bool) -> None:
    """Copy a store to a file, as it is at one moment, while others read and write it.

    To restore, open the copy, or put it in the place of a file that no process has open. Only its owner may read it.
    """
    with opened(existing(path)) as store, progress("copying") as report:
        store.backup(copy, overwrite=overwrite, progress=report)
    say(f"{copy} has {os.path.getsize(copy)} bytes.")
