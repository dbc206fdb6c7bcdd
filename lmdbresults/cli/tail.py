"""``lmdbresults tail``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.following import say_changes

__all__ = ["tail"]


@click.command()
@options.path
@click.option("--failures", is_flag=True, help="Only tasks that have failed or were revoked.")
@options.filters
@click.option("-n", "--last", default=10, show_default=True, type=click.IntRange(min=0), help="Tasks to begin with.")
@click.option("--no-follow", is_flag=True, help="Stop after these.")
@options.as_json
def tail(path: Any, failures: bool, last: int, no_follow: bool, as_json: bool, **chosen: Any) -> None:
    """Print tasks as they end.

    First the last ones, then each one as it ends or changes its state, until you press Ctrl-C.
    Writers wake this command; it does not poll. With --json, each line is an object.
    """
    if failures:
        chosen["states"] = (*chosen["states"], "FAILURE", "REVOKED")
    filters = options.filters_from(chosen)
    say_changes(path, filters, last, follow_on=not no_follow, as_json=as_json)
