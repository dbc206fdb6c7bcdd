"""``lmdbresults stats``"""

from dataclasses import fields

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import say

__all__ = ["stats"]


@click.command()
@click.argument("path")
def stats(path: str) -> None:
    """Print figures about a store: sizes in bytes, entries, readers."""
    with opened(existing(path)) as store:
        found = store.stats()
    width = max(len(field.name) for field in fields(found))
    for field in fields(found):
        say(f"{field.name:{width}}  {getattr(found, field.name)}")
