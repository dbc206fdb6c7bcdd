"""``lmdbresults salvage``"""

import click

from lmdbresults.cli.opening import existing
from lmdbresults.cli.output import progress, say, say_some
from lmdbresults.store.lmdb.maintenance.salvage import Salvaged
from lmdbresults.store.lmdb.maintenance.salvage import salvage as rescue

__all__ = ["salvage"]


@click.command()
@click.argument("path")
@click.argument("target", type=click.Path())
@click.option(
    "--freed", is_flag=True, help="Take former versions and deleted records too, where nothing newer is found."
)
@click.pass_context
def salvage(context: click.Context, path: str, target: str, freed: bool) -> None:
    """Take what can still be read of a damaged file to a new one.

    PATH is not changed; nobody should be writing to it. Every record that is taken matches its checksum, and keeps its
    deadline. Exit code 1 if something was lost.
    """
    options = existing(path)
    with progress("reading") as report_progress:
        report = rescue(options.path, target, freed=freed, progress=report_progress)
    _tell(report, target)
    if not report.is_complete():
        context.exit(1)


def _tell(report: Salvaged, target: str) -> None:
    say(f"{target} has {report.records} records; {report.expired} more had expired.")
    if report.strays:
        say(f"{report.strays} of them were found in pages that nothing leads to any more.")
    if report.freed:
        say(f"{report.freed} of them were found in free pages: they are former versions, or had been deleted.")
    if report.problems:
        say(f"Problems with pages: {len(report.problems)}")
        say_some(report.problems)
    unreadable = [*report.damaged, *report.lost]
    if unreadable:
        say(f"Records that are lost, besides those of which not even the key is left: {len(unreadable)}")
        say_some(unreadable)
    if report.missing:
        say(f"Entries that are missing (records, of the expiry index, pieces of large values): {report.missing}")
    if not report.is_certain:
        say("Which pages were free cannot be told any more: some of what was taken may be older or deleted.")
    if report.is_complete():
        say("Nothing was lost.")
