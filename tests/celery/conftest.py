"""Fixtures of the Celery tests. Without Celery they are left out, which is said, except in CI, where they fail."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import open_store

if find_spec("celery") is None and os.environ.get("CI") != "true":
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_collectionfinish() -> str:
        return "tests/celery is left out: Celery is not installed (pip install lmdbresults[celery])"


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes applications that keep their results in one file; the latest is the current one. The file ends sound."""
    from celery import current_app

    from tests.support.celery_tasks import make_app, settings_for

    former, made = current_app._get_current_object(), []

    def make(**settings: Any) -> Any:
        app = make_app(settings_for(tmp_path, **settings))
        app.set_current()
        made.append(app)
        return app

    yield make
    former.set_current()
    for app in made:
        app.backend.store.close()
        app.close()
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
