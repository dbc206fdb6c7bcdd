"""Fixtures for pytest: a Celery application and its worker over a temporary file, without a server.

pytest imports this module in every run of every project that has lmdbresults installed. So it is no part of the
package, and imports nothing before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker import WorkController

__all__ = [
    "lmdb_celery_app",
    "lmdb_celery_project",
    "lmdb_celery_settings",
    "lmdb_celery_url",
    "lmdb_celery_worker",
    "lmdb_celery_worker_options",
]


@pytest.fixture
def lmdb_celery_url(tmp_path: Path) -> str:
    """Return the URL of a file in the temporary folder of the test: broker and result backend."""
    return f"lmdb://{tmp_path}/celery.lmdb?durability=none"


@pytest.fixture(scope="session")
def lmdb_celery_project() -> Celery | None:
    """Return the application to test, or None for a new one in each test. Override it in ``conftest.py``."""
    return None


@pytest.fixture(scope="session")
def lmdb_celery_settings() -> dict[str, Any]:
    """Return settings for the application, such as ``{"task_acks_late": True}``. Override it to change some."""
    return {}


@pytest.fixture(scope="session")
def lmdb_celery_worker_options() -> dict[str, Any]:
    """Return options of the worker, such as ``{"pool": "threads", "concurrency": 4}``. Override it to change some."""
    return {}


@pytest.fixture
def lmdb_celery_app(
    lmdb_celery_project: Celery | None,
    lmdb_celery_settings: dict[str, Any],
    lmdb_celery_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Celery]:
    """Return the application, with broker and results in the temporary file until the test ends.

    Without a worker its messages wait in the queue, where the test can look at them.
    """
    from lmdbresults.integrations.celery import testing

    for variable in testing.URL_VARIABLES:  # they win over all settings
        monkeypatch.setenv(variable, lmdb_celery_url)
    with testing.configured(lmdb_celery_project, lmdb_celery_settings) as app:
        yield app


@pytest.fixture
def lmdb_celery_worker(lmdb_celery_app: Celery, lmdb_celery_worker_options: dict[str, Any]) -> Iterator[WorkController]:
    """Return a worker of the application, which runs in a thread of this process until the test ends."""
    from lmdbresults.integrations.celery import testing

    with testing.working(lmdb_celery_app, lmdb_celery_worker_options) as worker:
        yield worker
