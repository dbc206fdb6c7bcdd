"""RedisStore keeps the promises of the port, on a server and on a Cluster. Time is taken off the keys."""

from collections.abc import Iterator

import pytest

from lmdbresults.store.base import Store
from lmdbresults.store.redis import RedisStore, open_redis
from lmdbresults.testing.chords import Chords
from lmdbresults.testing.conformance import Lifecycle
from lmdbresults.testing.expiry import Expiry
from lmdbresults.testing.scanning import Ranges, Scans
from lmdbresults.testing.transactions import Transactions
from lmdbresults.testing.values import Counters, Values
from lmdbresults.testing.waiting import Waiting
from tests.support.redis_servers import RedisServer, shift_time


class OnServers(Values, Counters, Expiry, Transactions, Waiting, Scans, Ranges, Chords, Lifecycle):
    """All but queues, blocks and sweeping, which a server does not have; below, without what it does not promise."""

    test_the_moment_differs_after_every_change = None
    test_every_commit_is_announced = None
    test_notify_of_one_reaches_one_subscription = None
    test_notify_of_one_reaches_each_in_turn = None

    second = 10.0
    has_fake_clock = False
    announces_commits = False
    servers: list[RedisServer]

    def pass_time(self, seconds: float) -> None:
        shift_time(self.servers, seconds)

    @pytest.mark.parametrize("ttl", [0.5, 1.0, 86400.0])  # time that is taken off is exact to some milliseconds only
    def test_a_record_lives_until_its_deadline_and_no_longer(self, store: Store, ttl: float) -> None:
        store.set(b"key", b"value", ttl=ttl * self.second)
        self.pass_time(ttl * self.second * 0.75)
        assert store.get(b"key") == b"value"
        self.pass_time(ttl * self.second * 0.25)
        assert store.get(b"key") is None

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
