"""Arguments and options that several commands share."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

import click

from lmdbresults.monitoring import Filters

__all__ = ["MOMENT", "as_json", "filters", "filters_from", "limit", "path"]

Function = TypeVar("Function", bound=Callable[..., Any])
_SPANS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A moment: a span before now, such as 10m, or a date."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
        try:
            if span is not None:
                return datetime.now(timezone.utc) - timedelta(seconds=float(span[1]) * _SPANS[span[2]])
            return datetime.fromisoformat(value.replace("Z", "+00:00")).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} must be a span such as 30s, 10m, 2h, 7d, or a date such as 2026-01-31T12:00.", param, ctx
            )


MOMENT: Final = Moment()

path: Final = click.argument("path", metavar="FILE")
as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def limit(default: int, what: str) -> Callable[[Function], Function]:
    """Return an option for the most lines."""
    return click.option("--limit", type=click.IntRange(min=1), default=default, show_default=True, help=f"Most {what}.")


_FILTERS: Final = (
    click.option("--state", "states", multiple=True, help="Only tasks in this state; repeat it for several."),
    click.option("--name", help="Only tasks of this name."),
    click.option("--worker", help="Only tasks of this worker."),
    click.option("--queue", help="Only tasks that came by this queue."),
    click.option("--since", type=MOMENT, help="Only tasks that ended since then: 10m, 2h, 7d, or a date."),
    click.option("--until", "--older-than", "until", type=MOMENT, help="Only tasks that ended before: 7d, or a date."),
    click.option("--group", help="Only tasks of the group with this id."),
    click.option("--text", help="Only tasks with this in their name or id."),
)


def filters(function: Function) -> Function:
    """Add the options by which tasks are chosen. The command passes its keywords to `filters_from`."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def filters_from(chosen: dict[str, Any]) -> Filters:
    """Return the filters that the options say, and remove those from ``chosen``."""
    names = ("name", "worker", "queue", "since", "until", "group", "text")
    states = frozenset(state.upper() for state in chosen.pop("states"))
    return Filters(states=states, **{name: chosen.pop(name) for name in names})
