"""Fixtures of the backend tests."""

from collections.abc import Iterator

import pytest

from lmdbresults.app import App
from lmdbresults.backends import LMDBBackend
from lmdbresults.testing import FakeClock
from tests.support.plain import opened


@pytest.fixture
def app() -> App:
    """An app whose tasks run where they are dispatched."""
    return App()


@pytest.fixture
def backend(path: str, app: App, clock: FakeClock) -> Iterator[LMDBBackend]:
    """The app's backend, in a file that is found sound in the end."""
    with opened(path, app=app, clock=clock) as backend:
        yield backend
