"""``lmdbresults wait``"""

import math
import time
from collections.abc import Iterable
from typing import Any, Final

import click

from lmdbresults import states
from lmdbresults.cli import options
from lmdbresults.cli.following import say_row
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import say
from lmdbresults.monitoring import Monitor, TaskRow

__all__ = ["wait"]

#: Exit statuses. If there are several tasks, the highest counts.
_SUCCESS, _FAILURE, _REVOKED, _TIMEOUT = 0, 3, 4, 5
_STATUS: Final = {states.SUCCESS: _SUCCESS, states.FAILURE: _FAILURE, states.REVOKED: _REVOKED}
#: Seconds of one wait.
_LONGEST: Final = 3600.0


@click.command()
@options.path
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most.  [default: for ever]")
@options.as_json
@click.pass_context
def wait(context: click.Context, path: Any, ids: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until tasks have ended. Each one is printed when it has.

    Exit status: 0 if all have succeeded, 3 if one has failed, 4 if one was revoked, 5 if time is up. The writer of a
    result wakes this command; it does not poll. An id that is not known yet is waited for.
    """
    until = time.monotonic() + (math.inf if timeout is None else timeout)
    waiting, status = dict.fromkeys(ids), _SUCCESS
    with monitored(path) as monitor, monitor.changes() as changes:
        while True:
            for row in _ended(monitor, waiting):
                del waiting[row.id]
                status = max(status, _STATUS[row.state])
                say_row(row, as_json)
            left = until - time.monotonic()
            if not waiting or left <= 0:
                break
            changes.wait(min(left, _LONGEST))
    if waiting:
        say(f"Time is up; not ended: {', '.join(waiting)}.", err=True)
    context.exit(_TIMEOUT if waiting else status)


def _ended(monitor: Monitor, ids: Iterable[str]) -> list[TaskRow]:
    tasks = [monitor.task(id_) for id_ in ids]
    return [task.row for task in tasks if task is not None and task.row.state in _STATUS]
