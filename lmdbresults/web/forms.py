"""What visitors send: the filters of the list as a query, and the bodies of forms."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.datastructures import QueryParams
from starlette.requests import Request

from lmdbresults.monitoring import Filters

__all__ = ["Query", "form_of"]

#: Bytes of a form at most.
_MOST_BYTES: Final = 20_000
_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Query:
    """The filters of the list as the address holds them; unknown and empty ones are ignored."""

    states: tuple[str, ...]
    name: str
    worker: str
    queue: str
    group: str
    text: str
    since: str
    after: str
    problem: str = ""
    """What is wrong with it, for the visitor."""

    @classmethod
    def read(cls, params: QueryParams) -> "Query":
        """Return the query of a request."""
        states = tuple(dict.fromkeys(state for state in params.getlist("state") if state))
        rest = (params.get(key, "") for key in ("name", "worker", "queue", "group"))
        query = cls(states, *rest, *(params.get(key, "").strip() for key in ("text", "since", "after")))
        return query if _since(query.since) or not query.since else query._with_problem()

    def _with_problem(self) -> "Query":
        text = f"“{self.since}” is not an age such as 10m, 6h or 7d, nor a date such as 2026-01-31T12:00."
        return Query(self.states, self.name, self.worker, self.queue, self.group, self.text, "", self.after, text)

    def filters(self) -> Filters:
        """Return what the monitor is asked for."""
        return Filters(
            states=frozenset(self.states),
            name=self.name or None,
            worker=self.worker or None,
            queue=self.queue or None,
            group=self.group or None,
            text=self.text or None,
            since=_since(self.since),
        )

    def link(self, **changes: Any) -> Mapping[str, Any]:
        """Return the query of a link to the same list with some changes, at its beginning."""
        fields = ("name", "worker", "queue", "group", "text", "since")
        return {"state": list(self.states), **{key: getattr(self, key) for key in fields}, **changes}

    def is_filtered(self) -> bool:
        """Return whether anything is filtered."""
        return any((self.states, self.name, self.worker, self.queue, self.group, self.text, self.since))


def _since(text: str) -> datetime | None:
    try:
        if age := _AGE.fullmatch(text):
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        date = datetime.fromisoformat(text)
        return date.astimezone(timezone.utc) if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; none if it is too long or of another type."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            return {}
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        return {}
    return {key: values[0] for key, values in fields.items()}
