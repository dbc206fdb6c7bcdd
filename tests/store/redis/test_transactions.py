"""Transactions over many records of a server: no script grows with them, and what is read is of one moment."""

from collections.abc import Iterator

import pytest

from lmdbresults.errors import StoreError
from lmdbresults.store.redis import RedisStore, open_redis, transactions
from lmdbresults.store.transactions import ReadTransaction
from tests.support.redis_servers import RedisServer


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    with open_redis(server.url) as store:
        store.update(lambda txn: [txn.set(b"key %03d" % number, b"old") for number in range(100)])
        yield store


def test_a_view_of_many_records_is_of_one_moment_and_compared_in_parts(
    store: RedisStore, server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transactions, "_COMPARED", 10)
    seen: list[set[bytes]] = []

    def look(txn: ReadTransaction) -> set[bytes]:
        seen.append({value for _, value in txn.scan(b"key")})
        if len(seen) == 1:
            store.set(b"key 050", b"new")
            server.call("CONFIG", "RESETSTAT")
        return seen[-1]

    assert store.view(look) == {b"old", b"new"}
    assert seen[0] == {b"old"}
    statistics = server.call("INFO", "commandstats")["cmdstat_evalsha"]
    assert statistics["calls"] > 10


def test_a_transaction_that_is_too_large_for_a_server_changes_nothing(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transactions, "_MOST_WORDS", 300)
    with pytest.raises(StoreError, match="got 100: split it"):
        store.update(lambda txn: [txn.set(b"key %03d" % number, b"new") for number in range(100)])
    assert {value for _, value in store.scan(b"key")} == {b"old"}
