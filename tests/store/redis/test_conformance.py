"""RedisStore keeps the promises of the port, on a server and on a Cluster. Time is taken off the keys."""

from collections.abc import Iterator

import pytest

from lmdbresults.store.base import Store
from lmdbresults.store.redis import RedisStore, open_redis
from lmdbresults.testing import StoreConformance
from tests.support.redis_servers import RedisServer, shift_time


class OnServers(StoreConformance):
    """What both have in common."""

    second = 10.0
    has_fake_clock = False
    announces_commits = False
    servers: list[RedisServer]

    def pass_time(self, seconds: float) -> None:
        shift_time(self.servers, seconds)

    def lifetimes(self, store: Store, chord: bytes) -> list[float | None]:
        found: list[float | None] = []
        for server in self.servers:
            names = [name for name in server.call("KEYS", "*") if name.endswith(chord + b".records")]
            found += [server.call("PTTL", name) / 1000 for name in names]
        return found


class TestServer(OnServers):
    @pytest.fixture
    def store(self, server: RedisServer) -> Iterator[RedisStore]:
        self.servers = [server]
        with open_redis(server.url, global_keyprefix="app") as store:
            yield store


class TestCluster(OnServers):
    @pytest.fixture
    def store(self, cluster: list[RedisServer], cluster_url: str) -> Iterator[RedisStore]:
        self.servers = cluster
        with open_redis(cluster_url) as store:
            yield store
