"""The servers that the tests share, emptied before each of them."""

from collections.abc import Iterator

import pytest

from tests.support.redis_servers import RedisServer, redis_cluster, redis_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    shared_server.call("FLUSHALL")
    return shared_server


@pytest.fixture
def cluster(shared_cluster: list[RedisServer]) -> list[RedisServer]:
    for node in shared_cluster:
        node.call("FLUSHALL")
    return shared_cluster


@pytest.fixture
def cluster_url(cluster: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster[:2])
