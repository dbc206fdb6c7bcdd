"""Fixtures of the Celery tests. Without Celery they are left out, which is said, except in CI, where they fail."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import open_store
from tests.support.redis_server import server

if find_spec("celery") is None and os.environ.get("CI") != "true":
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_collectionfinish() -> str:
        return "tests/celery is left out: Celery is not installed (pip install lmdbresults[celery])"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the mark ``any_engine`` over a file and over Redis, except those ``of_a_file``."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "any_engine" in marks and "of_a_file" not in marks and "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ["lmdb", "redis"], indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """What keeps the results."""
    return str(getattr(request, "param", "lmdb"))


@pytest.fixture(scope="session")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a Redis server."""
    with server(tmp_path_factory.mktemp("redis")) as path:
        yield path


@pytest.fixture
def result_backend(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of an empty result backend."""
    if engine == "lmdb":
        return f"lmdb://{tmp_path}/results.lmdb?durability=none"
    import redis

    socket = request.getfixturevalue("redis_socket")
    with redis.Redis(unix_socket_path=str(socket)) as client:
        client.flushall()
    return f"lmdbresults+unix://{socket}"


@pytest.fixture
def application(engine: str, result_backend: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes applications that keep their results in one file; the latest is the current one. The file ends sound."""
    from celery import current_app

    from tests.support.celery_tasks import make_app, settings_for

    former, made = current_app._get_current_object(), []

    def make(**settings: Any) -> Any:
        app = make_app(settings_for(tmp_path, **{"result_backend": result_backend, **settings}))
        app.set_current()
        made.append(app)
        return app

    yield make
    former.set_current()
    for app in made:
        app.backend.store.close()
        app.close()
    if engine == "lmdb":
        with open_store(tmp_path / "results.lmdb") as store:
            assert store.check() == []


@pytest.fixture
def app(application: Callable[..., Any]) -> Any:
    """An application with the settings that Celery comes with."""
    return application()


@pytest.fixture
def eager(application: Any) -> Any:
    """An application that runs bodies where they are sent."""
    from tests.support.celery_parts import failed, ran

    ran.clear()
    failed.clear()
    return application(task_always_eager=True, task_store_eager_result=True)
