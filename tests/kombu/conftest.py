"""Fixtures of the transport's tests. Without kombu they are left out, which is said, except in CI, where they fail."""

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import open_store

# Once kombu is imported, it is a module without a spec.
if "kombu" not in sys.modules and find_spec("kombu") is None and os.environ.get("CI") != "true":
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_collectionfinish() -> str:
        return "tests/kombu is left out: kombu is not installed (pip install lmdbresults[celery])"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where messages may lie."""
    return f"lmdb://{tmp_path}/messages.lmdb?durability=none"


@pytest.fixture
def connect(url: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes connections to one file, which ends sound."""
    from kombu import Connection

    import lmdbresults.integrations.kombu  # noqa: F401 - so that no test depends on the entry point

    made = []

    def make(address: str = url, **options: Any) -> Any:
        made.append(Connection(address, transport_options=options))
        return made[-1]

    yield make
    for connection in made:
        connection.close()
    with open_store(tmp_path / "messages.lmdb") as store:
        assert store.check() == []


@pytest.fixture
def connection(connect: Callable[..., Any]) -> Any:
    return connect()


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again only when a message says so: a wake-up that is lost hangs."""
    from lmdbresults.integrations.kombu import event_loop, receiver

    monkeypatch.setattr(receiver, "LOOK_EVERY", 3600.0)
    monkeypatch.setattr(event_loop, "LOOK_EVERY", 3600.0)
