"""``lmdbresults overview``"""

from collections.abc import Mapping
from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import ago, local, say, say_json, say_table, span
from lmdbresults.monitoring import FileFigures, Overview

__all__ = ["overview"]

#: Lines of each table.
_MOST = 10


@click.command()
@options.path
@options.as_json
def overview(path: Any, as_json: bool) -> None:
    """Print figures about everything in a store.

    Tasks by state, name, worker and exception, run times, queues, chords, the file.
    """
    with monitored(path) as monitor:
        found = monitor.overview()
    if as_json:
        say_json(found)
    else:
        _say(found)


def _say(found: Overview) -> None:
    say(f"{found.total} tasks{_listed(found.states)}; {found.chords} chords in flight")
    for title, buckets in (("hour", found.hour), ("day", found.day)):
        say(f"ended in the last {title}: {sum(sum(bucket.states.values()) for bucket in buckets)}")
    names = [
        (
            each.name or "(not stored)",
            each.count,
            each.failures,
            span(None if each.runtime is None else each.runtime.p50),
        )
        for each in found.names[:_MOST]
    ]
    _say_section(("name", "tasks", "failures", "p50"), names)
    failures = [(each.name, each.exception, each.count, local(each.last)) for each in found.failures[:_MOST]]
    _say_section(("name", "exception", "failures", "last"), failures)
    workers = [(each.name, each.count, each.failures, f"{ago(each.last)} ago") for each in found.workers[:_MOST]]
    _say_section(("worker", "tasks", "failures", "last"), workers)
    slowest = [(span(each.runtime), each.id, each.name) for each in found.slowest[:_MOST]]
    _say_section(("slowest", "id", "name"), slowest)
    queues = [(each.name, each.ready, each.unacknowledged, each.delayed, span(each.oldest)) for each in found.queues]
    _say_section(("queue", "ready", "unacknowledged", "delayed", "oldest"), queues)
    if found.file is not None:
        _say_file(found.file)


def _listed(states: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {state}' for state, count in sorted(states.items()))})" if states else ""


def _say_section(titles: tuple[str, ...], rows: list[Any]) -> None:
    if rows:
        say("")
        say_table(titles, rows, "")


def _say_file(file: FileFigures) -> None:
    say("")
    say(f"{file.path}: {file.file_size} bytes, {file.live_size} in use; {file.records} records")
    if file.oldest_reader is not None:
        say(file.oldest_reader)
    if file.checkpoint_age is not None:
        say(f"last checkpoint {span(file.checkpoint_age)} ago")
