"""``lmdbresults rewrite``"""

import click

from lmdbresults.cli.opening import existing
from lmdbresults.cli.output import progress, say
from lmdbresults.store.lmdb.maintenance import rewrite as rewriting

__all__ = ["rewrite"]


@click.command()
@click.argument("path")
def rewrite(path: str) -> None:
    """Rewrite a file after an fsync failure and allow writes again.

    For a file in which nothing can be stored because an fsync has failed. Stop every process that uses it, and fix the
    disk. Every record is verified afterwards. After a reboot there is nothing to do: the file goes back to its last
    checkpoint when it is opened.
    """
    options = existing(path)
    with progress("writing") as report:
        size = rewriting.rewrite(options, progress=report)
    if size:
        say(f"{options.path}: {size} bytes written and verified. Writes are allowed again.")
    else:
        say(f"{options.path}: nothing to do. The next process that opens the file recovers it.")
