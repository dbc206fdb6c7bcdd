"""Redis as a broker, where it is installed: private to a test, on a Unix socket."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.celery.needed import CI


@pytest.fixture
def redis_broker(tmp_path_factory: Any) -> Iterator[str]:
    """The URL of a Redis that runs during the test."""
    pytest.importorskip("redis")
    from benchmarks.servers import Unavailable, redis_server

    folder: Path = tmp_path_factory.mktemp("redis")
    try:
        with redis_server(folder) as socket:
            yield f"redis+socket://{socket}"
    except Unavailable as reason:
        if CI:
            raise
        pytest.skip(str(reason))
