"""The Celery backend on a Redis Cluster, which Celery's own Redis backend does not support."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord, group

from lmdbresults.copying import copy, open_source, open_target, verify
from tests.support.celery_tasks import add, echo, settings_for, total
from tests.support.celery_workers import PATIENCE, running_worker
from tests.support.redis_servers import redis_cluster, redis_needed


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Cluster of three masters."""
    redis_needed()
    with redis_cluster(tmp_path_factory.mktemp("cluster"), 3) as servers:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def test_results_groups_and_chords_live_on_a_cluster_and_can_be_copied_there_and_back(tmp_path: Path, cluster: str):
    settings: dict[str, Any] = settings_for(tmp_path, result_backend=f"lmdbresults+{cluster}")
    with running_worker(tmp_path, settings) as app:
        first = chord([echo.s(n) for n in range(20)], echo.s(), app=app)
        assert first.apply_async().get(timeout=PATIENCE) == list(range(20))
        assert (chord([add.s(n, n) for n in range(5)], total.s(), app=app)).apply_async().get(timeout=PATIENCE) == 20
        many = group(add.s(n, n) for n in range(30)).apply_async()
        many.save()
        assert many.get(timeout=PATIENCE) == [2 * n for n in range(30)]
    source, target = open_source(cluster), open_target(f"lmdb://{tmp_path}/copy.lmdb?durability=none")
    assert copy(source, target).merged["result"].written > 50
    assert list(verify(source, target)) == []
    source.close()
    target.close()
