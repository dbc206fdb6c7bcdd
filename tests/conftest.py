"""Fixtures and Hypothesis profiles of all tests."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lmdbresults import LMDBStore, open_store
from lmdbresults.store import following
from lmdbresults.store.base import Subscription
from lmdbresults.store.redis import subscription as redis_subscription
from lmdbresults.store.thread_hub import ThreadHub

pytest.register_assert_rewrite("lmdbresults.testing")

from lmdbresults.testing import FakeClock  # noqa: E402, after the registration, or failures would show no values

# A shell without job control has its background processes ignore Ctrl-C, and Python leaves that as it finds it.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "default")

# How long an example takes is the business of the machine. Nightly runs look for what is rare.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("default", patient, max_examples=50)
settings.register_profile("ci", patient, max_examples=100, derandomize=True)
settings.register_profile("nightly", patient, max_examples=2000)
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PROFILE == "nightly":
        for item in items:
            item.add_marker(pytest.mark.timeout(3600), append=False)


@pytest.fixture(autouse=True, scope="module")
def logging_as_before() -> Iterator[None]:
    """Undo what a worker in this process does to logging: at its level ERROR no later test would see a warning."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a store may be made."""
    return str(tmp_path / "results.lmdb")


@pytest.fixture
def store(path: str, clock: FakeClock) -> Iterator[LMDBStore]:
    """A store that does not sync, with a clock that stands still."""
    with open_store(path, durability="none", clock=clock) as store:
        yield store


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again only when a message says so: a wake-up that is lost hangs."""
    monkeypatch.setattr(following, "LOOK_EVERY", 3600.0)
    monkeypatch.setattr(redis_subscription, "LOOK_EVERY", 3600.0)


@pytest.fixture
def hub(store: LMDBStore) -> Iterator[ThreadHub]:
    hub = ThreadHub(store, lambda: None)
    yield hub
    hub.close()


@pytest.fixture
def subscription(store: LMDBStore) -> Iterator[Subscription]:
    subscription = store.subscribe()
    yield subscription
    subscription.close()
