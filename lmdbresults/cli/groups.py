"""``lmdbresults groups``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import local, say_json, say_table
from lmdbresults.monitoring import Group

__all__ = ["groups"]


@click.command()
@options.path
@options.limit(50, "groups")
@options.as_json
def groups(path: Any, limit: int, as_json: bool) -> None:
    """List groups, newest first. `show FILE ID` shows the tasks of one."""
    with monitored(path) as monitor:
        found = monitor.groups(limit=limit)
    if as_json:
        say_json(found)
        return
    rows = [(local(group.last), group.id, _kind(group), group.size, _states(group)) for group in found]
    say_table(("last", "group", "kind", "size", "states"), rows, "No group is stored.")


def _kind(group: Group) -> str:
    return "chord" if group.chord is not None else "saved" if group.is_saved else ""


def _states(group: Group) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(group.states.items()))
