"""``lmdbresults stats``"""

from dataclasses import fields
from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import opened_anywhere
from lmdbresults.cli.output import say, say_json
from lmdbresults.errors import Unsupported
from lmdbresults.store.base import Measurable

__all__ = ["stats"]


@click.command()
@options.path
@options.as_json
def stats(path: Any, as_json: bool) -> None:
    """Print figures about a store: sizes in bytes, entries, readers."""
    with opened_anywhere(path) as store:
        if not isinstance(store, Measurable):
            raise Unsupported("Two stores as one have no figures: leave `fallback` out of the URL, or give the file.")
        found = store.stats()
    if as_json:
        say_json(found)
        return
    width = max(len(field.name) for field in fields(found))
    for field in fields(found):
        say(f"{field.name:{width}}  {getattr(found, field.name)}")
