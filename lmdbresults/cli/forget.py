"""``lmdbresults forget``"""

from typing import Any, Final

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import progress, say, say_json
from lmdbresults.monitoring import Filters

__all__ = ["forget"]

#: Results deleted between two steps of the progress bar.
_STEP: Final = 1000


@click.command()
@options.path
@click.argument("ids", metavar="[ID]...", nargs=-1)
@options.filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def forget(path: Any, ids: tuple[str, ...], yes: bool, as_json: bool, **chosen: Any) -> None:
    """Delete results by id or by filter.

    Those with these IDs, or all that match the options, as in --state FAILURE --older-than 7d.
    It says how many there are and asks, unless --yes is given. The exit status is 1 if there is none.
    """
    filters = options.filters_from(chosen)
    if bool(ids) == (filters != Filters()):
        raise click.UsageError("Give the ids of tasks, or options that choose them, such as --older-than 7d.")
    with monitored(path) as monitor:
        wanted = list(ids) if ids else [row.id for row in monitor.matching(filters)]
        if not yes and wanted:
            click.confirm(f"Results to delete: {len(wanted)}. Delete them?", abort=True, err=True)
        deleted = 0
        with progress("deleting") as report:
            for start in range(0, len(wanted), _STEP):
                deleted += monitor.forget(wanted[start : start + _STEP], filters)
                if report is not None:
                    report(start, len(wanted))
    if as_json:
        say_json({"deleted": deleted})
    else:
        say(f"Results deleted: {deleted}")
    click.get_current_context().exit(0 if deleted else 1)
