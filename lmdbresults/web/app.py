"""The page as an ASGI application, which can be served alone or mounted in another."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from lmdbresults.errors import ResultError
from lmdbresults.options import Options
from lmdbresults.store.base import Store
from lmdbresults.web.actions import Actions
from lmdbresults.web.guard import Guard, Sessions
from lmdbresults.web.live import Live
from lmdbresults.web.pages import Pages
from lmdbresults.web.settings import LOOPBACK, Control, Settings
from lmdbresults.web.source import Source

__all__ = ["create_app"]


def create_app(
    store: str | os.PathLike[str] | Options | Store,
    *,
    hosts: Iterable[str] = LOOPBACK,
    token: str | None = None,
    authorize: Callable[[Mapping[str, Any]], bool] | None = None,
    allow_actions: bool = False,
    control: Control | None = None,
) -> Starlette:
    """Return an ASGI application that shows what is in a store: a path, a URL, `Options`, or an open `Store`.

    A file is opened for the first request, and again if it is replaced; a server is connected by it. ``hosts`` are
    the names that the page answers to (``example.org``, without a port); any but those of this machine demand a
    ``token``, which visitors must enter, or ``authorize(scope)``, which returns whether a request may be answered.
    With ``allow_actions`` visitors can delete results, and revoke and retry tasks through ``control``. Raises
    `ConfigurationError`.
    """
    settings = Settings(
        hosts=frozenset(host.lower() for host in hosts),
        token=token,
        authorize=authorize,
        allow_actions=allow_actions,
        control=control,
    )
    source, sessions = Source(store), Sessions(token)
    live = Live(source)
    pages = Pages(source, settings, sessions, live)
    actions = Actions(source, settings, sessions, pages)
    app = Starlette(
        routes=_routes(pages, actions),
        middleware=[Middleware(Guard, settings=settings, sessions=sessions)],
        exception_handlers={ResultError: pages.problem, 404: pages.not_found},
    )
    app.state.name = source.name
    app.state.prepare = pages.prepare
    app.state.close = live.close  # or a server would wait for open pages at its end
    return app


def _routes(pages: Pages, actions: Actions) -> list[BaseRoute]:
    return [
        Route("/", pages.overview),
        Route("/tasks", pages.tasks),
        Route("/task", pages.task),
        Route("/groups", pages.groups),
        Route("/group", pages.group),
        Route("/chords", pages.chords),
        Route("/queues", pages.queues),
        Route("/events", pages.events),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/forget", actions.forget, methods=["POST"]),
        Route("/revoke", actions.revoke, methods=["POST"]),
        Route("/retry", actions.retry, methods=["POST"]),
        Mount("/static", StaticFiles(packages=[("lmdbresults.web", "static")]), name="static"),
    ]
