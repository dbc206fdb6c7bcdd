"""``lmdbresults salvage``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import existing
from lmdbresults.cli.output import progress, say, say_json, say_some
from lmdbresults.store.lmdb.maintenance import salvage as salvaging

__all__ = ["salvage"]


@click.command()
@options.path
@click.argument("target", type=click.Path())
@options.as_json
@click.pass_context
def salvage(context: click.Context, path: Any, target: str, as_json: bool) -> None:
    """Write what can still be read of a damaged file to a new file, TARGET.

    FILE is not changed; no process should write to it meanwhile. A record is taken if its checksum matches, and keeps
    its deadline. The exit status is 1 if something was lost.
    """
    chosen = existing(path)
    with progress("reading") as report_progress:
        report = salvaging.salvage(chosen.path, target, progress=report_progress)
    if as_json:
        say_json(report)
    else:
        _say_report(report, target)
    if not report.is_complete():
        context.exit(1)


def _say_report(report: salvaging.Salvaged, target: str) -> None:
    say(f"{target}: {report.records} records salvaged, {report.expired} expired records left out.")
    if report.strays:
        say(f"{report.strays} of them come from pages that no other page leads to any more.")
    if report.problems:
        say(f"Damaged pages: {len(report.problems)}")
        say_some(report.problems)
    if report.damaged:
        say(f"Lost records whose key is known: {len(report.damaged)}")
        say_some(report.damaged)
    if report.missing:
        say(f"Lost entries (records, chunks of large values): {report.missing}")
    if report.recounted:
        say(f"Queues whose messages were counted again: {len(report.recounted)}")
        say_some(report.recounted)
    if not report.is_certain:
        say("The list of free pages is damaged: some records may be older versions, or had been deleted.")
    if report.is_complete():
        say("Nothing was lost.")
