"""Waiting in a store that is full or damaged."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lmdbresults import LMDBStore, StoreFull, open_store
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify import registrations as watching
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from lmdbresults.testing import FakeClock
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(30)]


class TestFull:
    """Where there is no room to register, one looks again and again."""

    def test_a_wait_in_a_full_store_ends(self, path: str) -> None:
        with open_store(path, durability="none", max_size=1 << 20) as store:
            hub = ThreadHub(store, lambda: None)
            with suppress(StoreFull):
                for number in range(10_000):
                    store.set(b"%d" % number, os.urandom(1000))
            keys = [b"wait %d" % number for number in range(2000)]
            hub.subscription.add(keys)
            with ThreadWait(hub, [*keys, b"last"]) as wait:
                next(wait)
                for number in range(200):
                    store.delete(b"%d" % number)
                store.set(b"last", b"done")
                while not next(wait).get(b"last"):
                    pass
            hub.close()
            assert store.check() == []

    def test_a_sweep_makes_room_though_the_dead_cannot_be_cleared(
        self, store: LMDBStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def clear(*args: Any) -> None:
            raise StoreFull

        monkeypatch.setattr("lmdbresults.store.lmdb.store.clear_dead", clear)
        store.set(b"key", b"value", ttl=1.0)
        clock.advance(1.0)
        assert store.sweep() == 1


class TestDamage:
    """Records and registrations that nobody can read."""

    @staticmethod
    def damage(store: LMDBStore, place: bytes, entry: bytes) -> None:
        store._environment.write(lambda raw: raw.put(place, entry))

    @pytest.mark.parametrize("mend", [lambda store: store.set(b"key", b"done"), lambda store: store.delete(b"key")])
    def test_mending_a_damaged_record_wakes_who_waits_for_it(
        self, store: LMDBStore, subscription: Subscription, mend: Callable[[LMDBStore], object]
    ) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        self.damage(store, b"kkey", b"rubbish of some length, longer than a head")
        mend(store)
        assert subscription.drain() == {b"key"}
        assert store.check() == []

    @pytest.mark.parametrize(
        ("key", "entry"),
        [
            (b"w" + bytes(24), b""),
            (b"w" + bytes(24), b"f"),
            (b"w" + bytes(24), b"fkkey"),
            (b"w" + bytes(3), b"fkkey"),
            (b"w" + watching.waiters.topic_of(b"kkey") + bytes(8), b"gkkey"),
            (b"w" + watching.waiters.topic_of(b"kkey") + bytes(9), b"fkkey"),
            (b"w" + watching.waiters.topic_of(b"") + bytes(8), b"f"),
        ],
    )
    def test_a_damaged_registration_is_reported_and_stops_nothing(
        self, store: LMDBStore, subscription: Subscription, key: bytes, entry: bytes
    ) -> None:
        subscription.add([b"key"])
        self.damage(store, key, entry)
        assert len(store.check()) == 1
        store.sweep()
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}
