"""``lmdbresults chords``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import ago, local, say_json, say_table
from lmdbresults.monitoring import Chord

__all__ = ["chords"]

#: Places that are named of those that are missing.
_MOST = 5


@click.command()
@options.path
@options.limit(100, "chords")
@options.as_json
def chords(path: Any, limit: int, as_json: bool) -> None:
    """List chords in flight.

    It says what has returned, what is missing, which process runs the body, and whether it lives.
    A chord whose owner has ended is taken over by the next process that stores a result.
    """
    with monitored(path) as monitor:
        found = monitor.chords(limit=limit)
    if as_json:
        say_json(found)
        return
    rows = [
        (
            chord.id,
            chord.state,
            f"{chord.returned} of {'?' if chord.size is None else chord.size}",
            chord.failed or None,
            _missing(chord),
            ago(chord.opened),
            ago(chord.last),
            local(chord.expires),
            _owner(chord),
        )
        for chord in found
    ]
    titles = ("chord", "state", "returned", "failed", "missing", "age", "last part", "expires", "owner")
    say_table(titles, rows, "No chord is in flight.")


def _missing(chord: Chord) -> str | None:
    if not chord.missing:
        return None
    places = ", ".join(map(str, chord.missing[:_MOST]))
    return f"places {places}" + (f" and {len(chord.missing) - _MOST} more" if len(chord.missing) > _MOST else "")


def _owner(chord: Chord) -> str | None:
    if chord.owner_pid is None:
        return None
    return f"process {chord.owner_pid}" if chord.owner_alive else "has ended"
