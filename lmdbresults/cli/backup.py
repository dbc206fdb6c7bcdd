"""``lmdbresults backup``"""

import os

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import progress, say

__all__ = ["backup"]


@click.command()
@click.argument("path")
@click.argument("copy", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file once the copy is complete.")
def backup(path: str, copy: str, overwrite: bool) -> None:
    """Copy a store to a file, as of one moment, while other processes use it.

    To restore, open the copy, or move it to the path of a store that no process has open. The copy has mode 0600.
    """
    with opened(existing(path)) as store, progress("copying") as report:
        store.backup(copy, overwrite=overwrite, progress=report)
    say(f"{copy}: copied, {os.path.getsize(copy)} bytes.")
