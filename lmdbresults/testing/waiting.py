"""What a subscription hears of a store, and when it hears nothing."""

import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from lmdbresults.store.base import Store, Subscription
from lmdbresults.testing.clock import FakeClock
from lmdbresults.testing.samples import KEY_LENGTHS, sample

__all__ = ["Waiting"]

CHANGES: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set(b"key", b"done"),
    "set a large value": lambda store: store.set(b"key", sample(50_000)),
    "add": lambda store: store.add(b"key", b"done"),
    "incr": lambda store: store.incr(b"key"),
    "update": lambda store: store.update(lambda txn: txn.set(b"key", b"done")),
}


def is_readable(subscription: Subscription) -> bool:
    return bool(select.select([subscription.fileno()], [], [], 0)[0])


class Waiting:
    """Following keys with a subscription, and what arrives."""

    @pytest.fixture
    def subscription(self, store: Any) -> Iterator[Subscription]:
        """A subscription to the store."""
        subscription = store.subscribe()
        yield subscription
        subscription.close()

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_of_a_followed_key_arrives_once(self, store: Any, subscription: Subscription, change: str) -> None:
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.drain() == set()
        CHANGES[change](store)
        assert is_readable(subscription)
        assert subscription.drain() == {b"key"}
        assert not is_readable(subscription)

    def test_a_removed_key_can_be_added_again(self, store: Any, subscription: Subscription) -> None:
        for _ in range(3):
            assert subscription.add([b"key"]) == {b"key": None}
            store.set(b"key", b"done")
            assert subscription.drain() == {b"key"}
            subscription.remove([b"key"])
            store.delete(b"key")
            assert subscription.drain() == set()

    def test_add_returns_the_values_of_all_keys(self, store: Any, subscription: Subscription) -> None:
        store.set(b"ready", b"done")
        assert subscription.add([]) == {}
        assert subscription.add([b"ready", b"absent"]) == {b"ready": b"done", b"absent": None}
        assert subscription.add([b"ready"], every_change=True) == {b"ready": b"done"}

    def test_a_key_with_a_value_is_followed_too(self, store: Any, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_other_keys_are_not_heard_of(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        for other in (b"", b"ke", b"key\0", b"key2", b"k" * 600):
            store.set(other, b"done")
        assert subscription.drain() == set()

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_a_key_may_have_any_length(self, store: Any, subscription: Subscription, length: int) -> None:
        key = b"k" * length
        assert subscription.add([key]) == {key: None}
        assert list(store.scan()) == []
        store.set(key, b"done")
        assert subscription.drain() == {key}
        assert store.get(key) == b"done"

    def test_being_followed_does_not_make_a_record(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key", b"added", b"counter"])
        assert store.mget([b"key", b"added"]) == [None, None]
        assert store.ttl(b"key") is None
        assert store.expire(b"key", 10.0) is False
        assert store.delete(b"key") is False
        assert store.set(b"key", b"done", keep_prefix=b"done") is True
        assert store.add(b"added", b"done") is True
        assert store.incr(b"counter") == 1
        assert store.sweep() == 0

    def test_an_interim_value_arrives_only_where_every_change_was_asked_for(
        self, store: Any, subscription: Subscription
    ) -> None:
        other = store.subscribe()
        subscription.add([b"key"])
        other.add([b"key"], every_change=True)
        for number in range(3):
            store.set(b"key", b"...%d" % number, interim=True)
            assert subscription.drain() == set()
            assert other.drain() == {b"key"}
        store.set(b"key", b"done")
        assert (subscription.drain(), other.drain()) == ({b"key"}, {b"key"})
        other.close()

    @pytest.mark.parametrize("first", [False, True])
    def test_asking_for_every_change_once_is_enough(self, store: Any, subscription: Subscription, first: bool) -> None:
        subscription.add([b"key"], every_change=first)
        subscription.add([b"key"], every_change=not first)
        store.set(b"key", b"...", interim=True)
        assert subscription.drain() == {b"key"}
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_a_final_value_stays_final_if_an_interim_one_follows_in_its_transaction(
        self, store: Any, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        with store.write() as txn:
            txn.set(b"key", b"done")
            txn.set(b"key", b"...", interim=True)
        assert subscription.drain() == {b"key"}

    def test_a_delete_is_a_change(self, store: Any, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        store.delete(b"key")
        assert subscription.drain() == {b"key"}

    @pytest.mark.parametrize("sweep", [lambda store: store.sweep(), lambda store: store.set(b"other", b"")])
    def test_an_expiry_is_a_change_once_it_is_swept(
        self, store: Any, subscription: Subscription, clock: FakeClock, sweep: Callable[[Store], object]
    ) -> None:
        store.set(b"key", b"...", ttl=10.0)
        subscription.add([b"key"])
        clock.advance(10.0)
        sweep(store)
        assert subscription.drain() == {b"key"}

    def test_an_operation_that_changes_nothing_sends_nothing(self, store: Any, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        assert store.set(b"key", b"late", keep_prefix=b"...") is False
        assert store.add(b"key", b"late") is False
        store.expire(b"key", 10.0)
        assert store.get(b"key") == b"..."
        assert not is_readable(subscription)

    def test_a_transaction_that_is_undone_sends_nothing(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        with suppress(LookupError), store.write() as txn:
            txn.set(b"key", b"done")
            raise LookupError
        assert not is_readable(subscription)
        store.set(b"key", b"done")
        assert subscription.drain() == {b"key"}

    def test_the_message_comes_after_the_commit(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        with store.write() as txn:
            txn.set(b"key", b"done")
            assert not is_readable(subscription)
        assert subscription.drain() == {b"key"}

    def test_a_removed_key_is_not_heard_of(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key", b"other"])
        subscription.remove([b"key", b"never added"])
        store.set(b"key", b"done")
        store.set(b"other", b"done")
        assert subscription.drain() == {b"other"}

    def test_every_subscription_hears_of_a_change(self, store: Any) -> None:
        subscriptions = [store.subscribe() for _ in range(5)]
        for subscription in subscriptions:
            subscription.add([b"key"])
        subscriptions[2].remove([b"key"])
        subscriptions[3].close()
        store.set(b"key", b"done")
        assert [subscriptions[number].drain() for number in (0, 1, 2, 4)] == [{b"key"}, {b"key"}, set(), {b"key"}]
        for subscription in subscriptions:
            subscription.close()

    def test_many_keys_in_one_transaction_all_arrive(self, store: Any, subscription: Subscription) -> None:
        keys = [b"%d" % number for number in range(600)]
        subscription.add(keys)
        with store.write() as txn:
            for key in keys:
                txn.set(key, b"done")
        assert subscription.drain() == set(keys)

    def test_ringing_wakes_the_reader_and_says_nothing(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        subscription.ring()
        assert is_readable(subscription)
        assert subscription.drain() == set()
        assert not is_readable(subscription)

    def test_the_moment_is_another_one_after_every_change(self, store: Any) -> None:
        for change in CHANGES.values():
            store.delete(b"key")
            before = store.moment()
            assert store.moment() == before
            change(store)
            assert store.moment() != before

    def test_a_closed_subscription_is_quiet_and_stays_closed(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        subscription.close()
        subscription.close()
        subscription.ring()
        assert subscription.fileno() == -1
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.fileno() == -1
        store.set(b"key", b"done")
        assert subscription.drain() is None

    def test_closing_the_store_closes_its_subscriptions(self, store: Any, subscription: Subscription) -> None:
        subscription.add([b"key"])
        store.close()
        assert subscription.fileno() == -1
        subscription.close()
