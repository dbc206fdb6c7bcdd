"""A Redis server for tests: without one they are skipped on a laptop and fail in CI."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.servers import Unavailable, redis_server
from tests.support.celery_needed import CI

__all__ = ["server"]


@contextmanager
def server(folder: Path) -> Iterator[Path]:
    """Run a server that writes nothing to disk; yield the path of its socket."""
    pytest.importorskip("redis")
    try:
        with redis_server(folder, timeout=240.0) as socket:
            yield socket
    except Unavailable as why:
        if CI:
            raise
        pytest.skip(str(why))
