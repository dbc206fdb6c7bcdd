"""The pages: each asks the monitor in a thread, and shows the answer."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from lmdbresults import __version__
from lmdbresults.errors import ResultError
from lmdbresults.monitoring import Monitor, Overview
from lmdbresults.web.forms import Query, form_of
from lmdbresults.web.guard import Sessions
from lmdbresults.web.live import Live
from lmdbresults.web.rendering import MOST_TEXT, plain, render
from lmdbresults.web.settings import Settings
from lmdbresults.web.source import Fresh, Source

__all__ = ["Pages"]

#: Rows of a list.
_ROWS: Final = 100
#: The states that the list offers, beside those that it finds.
_STATES: Final = ("SUCCESS", "FAILURE", "STARTED", "RETRY", "REVOKED")
#: Bytes of a result that are decoded to be shown, and nodes of a canvas that are read.
_MOST_PAYLOAD: Final = 1_000_000
_MOST_NODES: Final = 500


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded result with its arguments as texts, or why it is not shown."""

    result: str = ""
    arguments: Sequence[tuple[str, str]] = ()
    refusal: str = ""
    can_retry: bool = False


class Pages:
    """The pages of one source."""

    def __init__(self, source: Source, settings: Settings, sessions: Sessions, live: Live) -> None:
        self._source = source
        self._settings = settings
        self._sessions = sessions
        self._live = live
        self._overview = Fresh(source, Monitor.overview, self._live.tell_all)

    # -- what is seen ----------------------------------------------------------------------------------------------

    async def overview(self, request: Request) -> Response:
        """What happens, on one page."""
        overview = cast(Overview, await self._overview.get())
        is_old = self._overview.is_being_renewed
        return self.page(request, "overview.html", overview=overview, now=overview.at, is_old=is_old)

    async def prepare(self) -> None:
        """Compute the figures, so that the first visitor need not wait for them."""
        with suppress(ResultError):  # which the first visitor sees
            await self._overview.get()

    async def tasks(self, request: Request) -> Response:
        """The tasks, newest first."""
        query = Query.read(request.query_params)
        found = await self._source.ask(
            lambda monitor: monitor.tasks(query.filters(), limit=_ROWS, after=query.after or None)
        )
        return self.page(request, "tasks.html", query=query, found=found, states=_STATES)

    async def task(self, request: Request) -> Response:
        """One task, with its traceback, its result and its canvas."""
        id_ = request.query_params.get("id", "")

        def read(monitor: Monitor) -> tuple[Any, Value, Any, Any]:
            task = monitor.task(id_)
            value = Value() if task is None else _value(monitor, id_, task)
            sent = monitor.message(id_) if task is None or task.row.ended is None else None
            return task, value, monitor.canvas(id_, limit=_MOST_NODES), sent

        task, value, canvas, sent = await self._source.ask(read)
        status = 200 if task or canvas or sent else 404
        return self.page(request, "task.html", status, id=id_, task=task, value=value, canvas=canvas, sent=sent)

    async def groups(self, request: Request) -> Response:
        """The groups, newest first."""
        found = await self._source.ask(lambda monitor: monitor.groups(limit=_ROWS))
        return self.page(request, "groups.html", groups=found, most=_ROWS)

    async def group(self, request: Request) -> Response:
        """One group or chord, with its canvas."""
        id_ = request.query_params.get("id", "")

        def read(monitor: Monitor) -> tuple[Any, Any, Any]:
            return monitor.group(id_), monitor.chord(id_), monitor.canvas(id_, limit=_MOST_NODES)

        group, chord, canvas = await self._source.ask(read)
        status = 200 if group or chord or canvas else 404
        return self.page(request, "group.html", status, id=id_, group=group, chord=chord, canvas=canvas)

    async def chords(self, request: Request) -> Response:
        """The chords in flight."""
        found = await self._source.ask(lambda monitor: monitor.chords(limit=_ROWS))
        return self.page(request, "chords.html", chords=found, most=_ROWS)

    async def queues(self, request: Request) -> Response:
        """The queues, or the messages of one."""
        queue = request.query_params.get("name")

        def read(monitor: Monitor) -> tuple[Any, Any]:
            if not hasattr(monitor.store, "queues"):
                return [], None
            return monitor.queues(), None if queue is None else monitor.messages(queue, _ROWS)

        queues, messages = await self._source.ask(read)
        return self.page(request, "queues.html", queues=queues, messages=messages, chosen=queue)

    async def events(self, request: Request) -> Response:
        """The stream that tells an open page when to ask again."""
        if self._live.is_full():
            return Response("Too many pages are open.\n", 503, {"retry-after": "30"}, "text/plain")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._live.stream(), headers=headers, media_type="text/event-stream")

    # -- logging in ------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Ask for the token."""
        base = request.scope.get("root_path", "")
        if self._settings.token is None:
            return RedirectResponse(f"{base}/", 303)
        if request.method != "POST":
            return self.page(request, "login.html", failed=False)
        if not self._sessions.is_token((await form_of(request)).get("token", "")):
            return self.page(request, "login.html", 403, failed=True)
        response = RedirectResponse(f"{base}/", 303)
        self._sessions.log_in(response, request.scope)
        return response

    # -- rendering -------------------------------------------------------------------------------------------------

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Return a rendered page."""
        cookie, form_key = self._sessions.form_key(request.headers)
        content = render(
            template,
            request.scope.get("root_path", ""),
            settings=self._settings,
            form_key=form_key,
            source=self._source.name,
            version=__version__,
            **{"now": datetime.now(timezone.utc), **values},
        )
        response = Response(content, status, media_type="text/html")
        if self._settings.allow_actions:
            self._sessions.keep_form_key(response, request.scope, cookie)
        return response

    async def not_found(self, request: Request, error: Exception) -> Response:
        """Say that there is no such page. Strangers may ask for files, so of these nothing more is said."""
        if isinstance(request.scope.get("endpoint"), StaticFiles):
            return Response("There is no such file.\n", 404, media_type="text/plain")
        return self.page(request, "refused.html", 404, text="There is no such page.")

    async def problem(self, request: Request, error: Exception) -> Response:
        """Say why there is nothing to see."""
        is_missing = isinstance(error, FileNotFoundError)
        return self.page(request, "problem.html", 503, error=str(error), is_missing=is_missing)


def _value(monitor: Monitor, id_: str, task: Any) -> Value:
    """Return the result and arguments of a task as texts."""
    if task.size > _MOST_PAYLOAD:
        return Value(refusal=f"It is too large to be shown here. Read it with: lmdbresults show PATH {id_} --decode")
    try:
        payload = monitor.payload(id_, max_bytes=_MOST_PAYLOAD)
    except (ResultError, KeyError) as error:
        return Value(refusal=str(error) if isinstance(error, ResultError) else "It was deleted just now.")
    arguments = [(key, plain(value)[: MOST_TEXT + 1]) for key, value in payload.arguments.items() if value is not None]
    can_retry = task.row.name is not None and {"args", "kwargs"} <= payload.arguments.keys()
    return Value(_result(payload.result)[: MOST_TEXT + 1], arguments, "", can_retry)


def _result(stored: Any) -> str:
    """Return a result as text; of an exception, its class and its arguments."""
    if isinstance(stored, dict) and stored.keys() == {"exc_type", "exc_message", "exc_module"}:
        message = stored["exc_message"]
        said = message if isinstance(message, str) else ", ".join(map(str, message)) if message else ""
        return f"{stored['exc_module']}.{stored['exc_type']}: {said}"
    return plain(stored)
