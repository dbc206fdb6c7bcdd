"""Redis as a broker if it is installed: private to a test, on a Unix socket."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("celery") is None and os.environ.get("CI") != "true":
    collect_ignore = ["test_chord_soak.py"]


@pytest.fixture
def redis_broker(tmp_path_factory: Any) -> Iterator[str]:
    """The URL of a Redis server that runs during the test."""
    pytest.importorskip("celery")
    pytest.importorskip("redis")
    from benchmarks.servers import Unavailable, redis_server

    folder: Path = tmp_path_factory.mktemp("redis")
    try:
        with redis_server(folder) as socket:
            yield f"redis+socket://{socket}"
    except Unavailable as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))
