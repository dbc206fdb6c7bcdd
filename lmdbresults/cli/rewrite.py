"""``lmdbresults rewrite``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import existing
from lmdbresults.cli.output import progress, say, say_json
from lmdbresults.store.lmdb.maintenance import rewrite as rewriting

__all__ = ["rewrite"]


@click.command()
@options.path
@options.as_json
def rewrite(path: Any, as_json: bool) -> None:
    """Rewrite a file after an fsync failure and allow writes again.

    For a file in which nothing can be stored because an fsync has failed. Stop every process that uses it, and fix the
    disk. Every record is verified afterwards. After a reboot there is nothing to do: the file goes back to its last
    checkpoint when it is opened.
    """
    chosen = existing(path)
    with progress("writing") as report:
        size = rewriting.rewrite(chosen, progress=report)
    if as_json:
        say_json({"path": chosen.path, "bytes": size})
    elif size:
        say(f"{chosen.path}: {size} bytes written and verified. Writes are allowed again.")
    else:
        say(f"{chosen.path}: nothing to do. The next process that opens the file recovers it.")
