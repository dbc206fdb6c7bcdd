"""Fixtures and Hypothesis profiles of all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lmdbresults import LMDBStore, open_store

pytest.register_assert_rewrite("lmdbresults.testing")

from lmdbresults.testing import FakeClock  # noqa: E402, after the registration, or failures would show no values

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
