"""``lmdbresults sweep``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import progress, say, say_json

__all__ = ["sweep"]


@click.command()
@options.path
@options.as_json
def sweep(path: Any, as_json: bool) -> None:
    """Delete expired records at once. Writers do so as they write: this is for a file that is not written to.

    Others can write meanwhile.
    """
    with opened(existing(path)) as store, progress("sweeping"):
        deleted = store.sweep()
    if as_json:
        say_json({"deleted": deleted})
    else:
        say(f"Expired records deleted: {deleted}")
