"""A backend whose clock is moved by the test, over each kind of store."""

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import StoreBackend
from lmdbresults.monitoring import Monitor
from lmdbresults.testing import FakeClock, MemoryStore
from tests.support.plain import opened


class ClockedApp(App):
    """An app that tells the time by a clock."""

    zone: Any = timezone.utc

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(result_extended=True)
        self.clock = clock

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), self.zone)


@pytest.fixture(params=["lmdb", "memory"])
def backend(request: pytest.FixtureRequest, path: str, clock: FakeClock) -> Iterator[Any]:
    app = ClockedApp(clock)
    if request.param == "lmdb":
        with opened(path, app=app, clock=clock, expires=3600) as backend:
            yield backend
    else:
        yield StoreBackend(app, store=MemoryStore(clock=clock), expires=3600)


@pytest.fixture
def monitor(backend: Any) -> Monitor:
    return Monitor(backend.store)


@pytest.fixture
def end(backend: Any, clock: FakeClock) -> Callable[..., None]:
    """End a task, some time after the one before; every fourth one at a full second, whose date is shorter."""

    def end(task_id: str, name: str = "proj.add", state: str = states.SUCCESS, result: Any = 1, **request: Any) -> None:
        clock.advance(1.25)
        if state in states.EXCEPTION_STATES:
            result = ValueError("no")
        traceback = 'Traceback (most recent call last):\n  File "x"\nValueError: no\n' if state == "FAILURE" else None
        backend.store_result(task_id, result, state, traceback, request=Request(task_id, name, **request))

    return end
