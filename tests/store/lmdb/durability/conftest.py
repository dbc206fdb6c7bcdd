"""Processes of these tests end as by kill -9."""

import pytest

from lmdbresults.store.lmdb.engine.registry import environments


@pytest.fixture(autouse=True)
def dropped_stores_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no thread close what the function of a child has dropped: before the child ends, it could be covered."""
    monkeypatch.setattr(environments, "close_dropped", lambda: None)
