"""``lmdbresults copy``"""

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, Final

import click

from lmdbresults import copying
from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.options import MOMENT
from lmdbresults.cli.output import progress, say, say_some
from lmdbresults.copying.opening import LAYOUTS
from lmdbresults.copying.sides import Source, Target
from lmdbresults.copying.stores import StoreSource
from lmdbresults.options import Options
from lmdbresults.serialization import DEFAULT_ACCEPT

__all__ = ["copy"]

_SERIALIZERS: Final = click.Choice(["json", "msgpack", "yaml", "pickle"])


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--layout", type=click.Choice(LAYOUTS), default=LAYOUTS[0], help="Layout of a DESTINATION on Redis.")
@click.option("--source-layout", type=click.Choice(LAYOUTS), default=LAYOUTS[0], help="Layout of a SOURCE on Redis.")
@click.option("--since", type=MOMENT, help="Leave out results that ended before.")
@click.option("--skip-chords", is_flag=True, help="Leave out chords in flight.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--verify/--no-verify", default=True, help="Compare both sides afterwards.  [default: verify]")
@click.option("--accept", type=_SERIALIZERS, multiple=True, help="Serializers to decode besides json, msgpack, yaml.")
@click.option("--serializer", type=_SERIALIZERS, help="The result_serializer that belongs to Celery's layout.")
@click.option(
    "--expires",
    type=float,
    default=86400.0,
    show_default=True,
    help="Seconds: result_expires of file:// and db+sqlite://.",
)
@click.option("--keyprefix", default="", help="The global_keyprefix of Celery's layout.")
def copy(source: Any, destination: str, **options: Any) -> None:
    """Copy the live results of SOURCE to DESTINATION.

    SOURCE and DESTINATION are paths, lmdb:// or Redis URLs; SOURCE may also be Celery's file:// or db+sqlite://. Both
    may be in use. Copied are results, groups, other values and chords in flight, with the time that is left to them; of
    two versions of a result the newest stays. Repeat the command after an interruption, or to copy what was written
    meanwhile. Exit status 1: something could not be copied, or differs.
    """
    with closing(_source(source, options)) as one, closing(_target(destination, options)) as other:
        summary = _run(one, other, options)
        if options["verify"] and not options["dry_run"]:
            summary.problems.extend(_verify(one, other, options))
    _say(summary, options["dry_run"])
    click.get_current_context().exit(1 if summary.problems else 0)


def _accepted(options: dict[str, Any]) -> tuple[str, ...]:
    return (*DEFAULT_ACCEPT, *options["accept"])


def _timestamp(options: dict[str, Any]) -> float | None:
    return None if options["since"] is None else float(options["since"].timestamp())


def _source(url: str | Options, options: dict[str, Any]) -> Source:
    if isinstance(url, Options):
        return StoreSource(opened(existing(url)))
    return copying.open_source(
        url,
        layout=options["source_layout"],
        accept=_accepted(options),
        serializer=options["serializer"] or "json",
        expires=options["expires"],
        keyprefix=options["keyprefix"],
    )


def _target(url: str, options: dict[str, Any]) -> Target:
    return copying.open_target(
        url,
        layout=options["layout"],
        accept=_accepted(options),
        serializer=options["serializer"],
        keyprefix=options["keyprefix"],
    )


def _run(source: Source, target: Target, options: dict[str, Any]) -> copying.Summary:
    with progress("copying") as report:
        return copying.copy(
            source,
            target,
            since=_timestamp(options),
            skip_chords=options["skip_chords"],
            dry_run=options["dry_run"],
            progress=_counting(report),
        )


def _verify(source: Source, target: Target, options: dict[str, Any]) -> Iterable[str]:
    with progress("comparing") as report:
        yield from copying.verify(
            source,
            target,
            since=_timestamp(options),
            accept=_accepted(options),
            values=options["layout"] != "celery",
            chords=not options["skip_chords"],
            progress=_counting(report),
        )


def _counting(report: Callable[[int, int], object] | None) -> Callable[[int, int | None], object]:
    """Return a progress function for a total that may be unknown, or may grow meanwhile."""

    def count(done: int, total: int | None) -> None:
        if report is not None:
            report(done, max(done, total or 0))

    return count


def _say(summary: copying.Summary, is_dry: bool) -> None:
    for kind, merged in sorted(summary.merged.items()):
        verb = "to copy" if is_dry else "copied"
        say(f"{kind}s: {merged.written} {verb}, {merged.same} already there, {merged.kept} newer there.")
    if summary.older:
        say(f"results: {summary.older} ended before --since and were left out.")
    if summary.chords or summary.same_chords:
        verb = "to copy" if is_dry else "copied"
        say(f"chords in flight: {summary.chords} {verb}, {summary.same_chords} already there.")
    if summary.skipped_chords:
        say(f"chords in flight: {len(summary.skipped_chords)} skipped.")
        say_some(summary.skipped_chords)
    if summary.left_out:
        say("Not copied:")
        say_some(summary.left_out)
    rate = summary.items / summary.seconds if summary.seconds else 0.0
    say(f"{summary.items} looked at in {summary.seconds:.1f} s, {rate:.0f} a second.")
    if summary.problems:
        say(f"{len(summary.problems)} problems:", err=True)
        for problem in summary.problems[:20]:
            say(f"  {problem}", err=True)
