"""Fixtures of the copies: stores with something in them, and Celery's own backends."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from lmdbresults.copying import open_source, open_target
from lmdbresults.copying.sides import Source, Target
from tests.support.celery_needed import ALL_CONTENT
from tests.support.redis_server import server


@pytest.fixture(scope="session")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a Redis server."""
    with server(tmp_path_factory.mktemp("redis")) as path:
        yield path


@pytest.fixture
def client(socket: Path) -> Iterator[redis.Redis]:
    """A client of an empty Redis database."""
    with redis.Redis(unix_socket_path=str(socket)) as client:
        client.flushall()
        yield client


@pytest.fixture
def database(socket: Path, client: redis.Redis) -> str:
    """The URL of an empty Redis database."""
    return f"unix://{socket}?db=0"


@pytest.fixture
def source() -> Iterator[Callable[..., Source]]:
    """Opens sides to read from."""
    with ExitStack() as opened:
        yield lambda *args, **options: opened.enter_context(closing(open_source(*args, **options)))


@pytest.fixture
def target() -> Iterator[Callable[..., Target]]:
    """Opens sides to write to."""
    with ExitStack() as opened:
        yield lambda *args, **options: opened.enter_context(closing(open_target(*args, **options)))


@pytest.fixture
def celery() -> Iterator[Callable[..., Any]]:
    """Makes applications by the URL of their results."""
    made = []

    def make(url: str, serializer: str = "json", **settings: Any) -> Celery:
        app = Celery("tests", backend=url, set_as_current=False)
        app.conf.update(result_serializer=serializer, accept_content=ALL_CONTENT, **settings)
        made.append(app)
        return app

    yield make
    for app in made:
        if hasattr(app.backend, "store"):
            app.backend.store.close()
        app.close()
    app = None
    made.clear()
    with warnings.catch_warnings():  # Celery's own backends leave their connections to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
