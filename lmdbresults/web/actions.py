"""What visitors may do if actions are allowed: delete a result, revoke a task, send a failed one again."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from lmdbresults.errors import ResultError
from lmdbresults.monitoring import Monitor
from lmdbresults.web.forms import form_of
from lmdbresults.web.guard import Sessions
from lmdbresults.web.pages import Pages
from lmdbresults.web.rendering import link, visible
from lmdbresults.web.settings import Control, Settings
from lmdbresults.web.source import Source

__all__ = ["Actions"]


class Refused(Exception):
    """Raised when an action cannot be done; the text is for the visitor."""


class Actions:
    """The forms of one source."""

    def __init__(self, source: Source, settings: Settings, sessions: Sessions, pages: Pages) -> None:
        self._source = source
        self._settings = settings
        self._sessions = sessions
        self._pages = pages

    async def forget(self, request: Request) -> Response:
        """Delete the result of a task."""

        def step(monitor: Monitor, id_: str, form: Mapping[str, str]) -> str:
            if not monitor.forget([id_]):
                raise Refused("There is no result of this task any more.")
            return ""

        return await self._do(request, step)

    async def revoke(self, request: Request) -> Response:
        """Have workers discard a task."""

        def step(monitor: Monitor, id_: str, form: Mapping[str, str]) -> str:
            self._control(monitor).revoke(id_, terminate=form.get("terminate") == "1")
            return id_

        return await self._do(request, step)

    async def retry(self, request: Request) -> Response:
        """Send a task again, with the name and the arguments that are stored with its result."""

        def step(monitor: Monitor, id_: str, form: Mapping[str, str]) -> str:
            task, control = monitor.task(id_), self._control(monitor)
            if task is None or task.row.name is None:
                raise Refused("The name of this task is not stored. Set result_extended = True for later tasks.")
            if task.row.state not in ("FAILURE", "REVOKED"):
                raise Refused(f"This task is in state {task.row.state}. Only a failed or revoked one can be retried.")
            args, kwargs = _arguments(monitor.payload(id_).arguments)
            return control.retry(task.row.name, args, kwargs, task.row.queue)

        return await self._do(request, step)

    def _control(self, monitor: Monitor) -> Control:
        control = self._settings.control
        if control is None:
            raise Refused("No application is known that sends messages: start the page with --app.")
        if control.uses_file and not monitor.queues():
            raise Refused("This file has no queues, so another broker has the messages: start the page with --app.")
        return control

    async def _do(self, request: Request, step: Callable[[Monitor, str, Mapping[str, str]], str]) -> Response:
        """Do a step if it is allowed and was asked for by a page of ours; then lead to the task whose id it returns."""
        form = await form_of(request)
        if not self._settings.allow_actions:
            return self._refuse(request, 403, "This page only shows. Start it with --allow-actions to change things.")
        if not self._sessions.is_from_a_form(request.headers, form.get("key", "")):
            return self._refuse(request, 403, "This form is from an earlier time. Go back, reload the page, try again.")
        try:
            seen = await self._source.ask(lambda monitor: step(monitor, form.get("id", ""), form))
        except (Refused, ResultError, KeyError) as error:
            return self._refuse(request, 409, str(error))
        except Exception as error:  # of a broker that cannot be reached, whatever it is
            return self._refuse(request, 502, f"{type(error).__name__}: {error}")
        base = request.scope.get("root_path", "")
        return RedirectResponse(link(base, "task", id=seen) if seen else link(base, "tasks"), 303)

    def _refuse(self, request: Request, status: int, text: str) -> Response:
        return self._pages.page(request, "refused.html", status, text=visible(text))


def _arguments(stored: Mapping[str, Any]) -> tuple[list[Any], Mapping[str, Any]]:
    args, kwargs = stored.get("args"), stored.get("kwargs")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise Refused("The arguments of this task are not stored as such. Set result_extended = True for later tasks.")
    return list(args), kwargs
