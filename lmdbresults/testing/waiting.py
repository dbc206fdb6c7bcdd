"""What a subscription hears of a store, and when it hears nothing."""

import select
import time
from collections.abc import Callable, Iterator

import pytest

from lmdbresults.store.base import EVERY_COMMIT, Store, Subscription, WriteTransaction
from lmdbresults.testing.hooks import Hooks
from lmdbresults.testing.samples import KEY_LENGTHS, sample

__all__ = ["Waiting", "heard"]

CHANGES: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set(b"key", b"done"),
    "set a large value": lambda store: store.set(b"key", sample(50_000)),
    "add": lambda store: store.add(b"key", b"done"),
    "incr": lambda store: store.incr(b"key"),
    "update": lambda store: store.update(lambda txn: txn.set(b"key", b"done")),
    "notify": lambda store: store.notify(b"key"),
}

#: A key that no test uses otherwise.
FENCE = b"fence"
#: Seconds in which a message must arrive.
PATIENCE = 10.0


def heard(store: Store, subscription: Subscription) -> set[bytes]:
    """Return the keys whose changes have been sent since the last call: all that arrive before that of a last key."""
    subscription.add([FENCE])
    store.set(FENCE, b"")
    keys: set[bytes] = set()
    until = time.monotonic() + PATIENCE
    while FENCE not in keys:
        assert time.monotonic() < until, "no message arrives"
        changed = subscription.receive(0.1)
        assert changed is not None
        keys.update(changed)
    subscription.remove([FENCE])
    store.delete(FENCE)
    return keys - {FENCE}


def is_readable(subscription: Subscription, seconds: float = PATIENCE) -> bool:
    return bool(select.select([subscription.fileno()], [], [], seconds)[0])


class Waiting(Hooks):
    """Following keys with a subscription, and what arrives. No test is about how fast."""

    @pytest.fixture
    def subscription(self, store: Store) -> Iterator[Subscription]:
        """A subscription to the store."""
        subscription = store.subscribe()
        yield subscription
        subscription.close()

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_of_a_followed_key_arrives_once(
        self, store: Store, subscription: Subscription, change: str
    ) -> None:
        assert subscription.add([b"key"]) == {b"key": None}
        assert heard(store, subscription) == set()
        CHANGES[change](store)
        assert is_readable(subscription)
        assert heard(store, subscription) == {b"key"}
        assert heard(store, subscription) == set()

    def test_a_key_is_followed_until_it_is_removed(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])
        for change in CHANGES.values():
            store.delete(b"key")
            change(store)
            assert heard(store, subscription) == {b"key"}

    def test_a_removed_key_can_be_added_again(self, store: Store, subscription: Subscription) -> None:
        for _ in range(3):
            assert subscription.add([b"key"]) == {b"key": None}
            store.set(b"key", b"done")
            assert heard(store, subscription) == {b"key"}
            subscription.remove([b"key"])
            store.delete(b"key")
            assert heard(store, subscription) == set()

    def test_add_returns_the_values_of_all_keys(self, store: Store, subscription: Subscription) -> None:
        store.set(b"ready", b"done")
        assert subscription.add([]) == {}
        assert subscription.add([b"ready", b"absent"]) == {b"ready": b"done", b"absent": None}
        assert subscription.add([b"ready"], every_change=True) == {b"ready": b"done"}

    def test_a_key_with_a_value_is_followed_too(self, store: Store, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        store.set(b"key", b"done")
        assert heard(store, subscription) == {b"key"}

    def test_other_keys_are_not_heard_of(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])
        for other in (b"", b"ke", b"key\0", b"key2", b"k" * 600):
            store.set(other, b"done")
        assert heard(store, subscription) == set()

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_a_key_may_have_any_length(self, store: Store, subscription: Subscription, length: int) -> None:
        key = b"k" * length
        assert subscription.add([key]) == {key: None}
        assert list(store.scan()) == []
        store.set(key, b"done")
        assert heard(store, subscription) == {key}
        assert store.get(key) == b"done"

    def test_being_followed_does_not_make_a_record(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key", b"added", b"counter"])
        assert store.mget([b"key", b"added"]) == [None, None]
        assert store.ttl(b"key") is None
        assert store.expire(b"key", 10.0) is False
        assert store.delete(b"key") is False
        assert store.set(b"key", b"done", keep_prefix=b"done") is True
        assert store.add(b"added", b"done") is True
        assert store.incr(b"counter") == 1

    def test_an_interim_value_arrives_only_where_every_change_was_asked_for(
        self, store: Store, subscription: Subscription
    ) -> None:
        other = store.subscribe()
        subscription.add([b"key"])
        other.add([b"key"], every_change=True)
        for number in range(3):
            store.set(b"key", b"...%d" % number, interim=True)
            assert heard(store, subscription) == set()
            assert heard(store, other) == {b"key"}
        store.set(b"key", b"done")
        assert (heard(store, subscription), heard(store, other)) == ({b"key"}, {b"key"})
        other.close()

    @pytest.mark.parametrize("first", [False, True])
    def test_asking_for_every_change_once_is_enough(
        self, store: Store, subscription: Subscription, first: bool
    ) -> None:
        subscription.add([b"key"], every_change=first)
        subscription.add([b"key"], every_change=not first)
        store.set(b"key", b"...", interim=True)
        assert heard(store, subscription) == {b"key"}
        store.set(b"key", b"done")
        assert heard(store, subscription) == {b"key"}

    def test_a_final_value_stays_final_if_an_interim_one_follows_in_its_transaction(
        self, store: Store, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        store.update(lambda txn: [txn.set(b"key", b"done"), txn.set(b"key", b"...", interim=True)])
        assert heard(store, subscription) == {b"key"}

    def test_a_delete_is_a_change(self, store: Store, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        store.delete(b"key")
        assert heard(store, subscription) == {b"key"}

    def test_an_operation_that_changes_nothing_sends_nothing(self, store: Store, subscription: Subscription) -> None:
        store.set(b"key", b"...")
        subscription.add([b"key"])
        assert store.set(b"key", b"late", keep_prefix=b"...") is False
        assert store.add(b"key", b"late") is False
        store.expire(b"key", 10.0)
        assert store.get(b"key") == b"..."
        assert heard(store, subscription) == set()

    def test_a_transaction_that_is_undone_sends_nothing(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])

        def fail(txn: WriteTransaction) -> None:
            txn.set(b"key", b"done")
            txn.notify(b"key")
            raise LookupError

        with pytest.raises(LookupError):
            store.update(fail)
        assert heard(store, subscription) == set()
        store.set(b"key", b"done")
        assert heard(store, subscription) == {b"key"}

    def test_the_message_comes_after_the_commit(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])

        def write(txn: WriteTransaction) -> None:
            txn.set(b"key", b"done")
            assert not is_readable(subscription, 0.05)

        store.update(write)
        assert heard(store, subscription) == {b"key"}

    def test_a_removed_key_is_not_heard_of(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key", b"other"])
        subscription.remove([b"key", b"never added"])
        store.set(b"key", b"done")
        store.set(b"other", b"done")
        assert heard(store, subscription) == {b"other"}

    def test_every_subscription_hears_of_a_change(self, store: Store) -> None:
        subscriptions = [store.subscribe() for _ in range(5)]
        for subscription in subscriptions:
            subscription.add([b"key"])
        subscriptions[2].remove([b"key"])
        subscriptions[3].close()
        store.set(b"key", b"done")
        heard_by = [heard(store, subscriptions[number]) for number in (0, 1, 2, 4)]
        assert heard_by == [{b"key"}, {b"key"}, set(), {b"key"}]
        for subscription in subscriptions:
            subscription.close()

    def test_many_keys_in_one_transaction_all_arrive(self, store: Store, subscription: Subscription) -> None:
        keys = [b"%d" % number for number in range(600)]
        subscription.add(keys)
        store.update(lambda txn: [txn.set(key, b"done") for key in keys])
        assert heard(store, subscription) == set(keys)

    def test_ringing_wakes_the_reader_and_says_nothing(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])
        subscription.ring()
        assert is_readable(subscription)
        assert subscription.drain() == set()
        assert not is_readable(subscription, 0)

    def test_a_topic_needs_no_record(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"topic"], every_change=True)
        store.notify(b"topic")
        store.notify(b"other topic")
        assert heard(store, subscription) == {b"topic"}
        assert list(store.scan()) == []

    def test_a_topic_can_be_followed_without_a_look(self, store: Store, subscription: Subscription) -> None:
        for _ in range(3):
            subscription.follow([b"topic"])
            store.notify(b"topic", one=True)
            assert heard(store, subscription) == {b"topic"}
            subscription.remove([b"topic"])
            store.notify(b"topic", one=True)
            assert heard(store, subscription) == set()

    def test_notify_in_a_transaction_sends_after_its_commit(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"topic"])
        store.update(lambda txn: [txn.set(b"key", b""), txn.notify(b"topic")])
        assert heard(store, subscription) == {b"topic"}

    def test_notify_of_one_reaches_one_subscription(self, store: Store) -> None:
        self.needs_queues(store)
        subscriptions = [store.subscribe() for _ in range(4)]
        for subscription in subscriptions[:3]:
            subscription.add([b"topic"])
        subscriptions[0].close()
        for _ in range(5):
            store.notify(b"topic", one=True)
            heard_by = [heard(store, subscription) for subscription in subscriptions[1:]]
            assert sorted(heard_by, key=len) == [set(), set(), {b"topic"}]
        for subscription in subscriptions:
            subscription.close()

    def test_notify_of_one_reaches_each_in_turn(self, store: Store) -> None:
        self.needs_queues(store)
        subscriptions = [store.subscribe() for _ in range(3)]
        for subscription in subscriptions:
            subscription.add([b"topic"])
        woken: set[int] = set()
        for _ in range(6):
            store.notify(b"topic", one=True)
            woken.update(number for number, each in enumerate(subscriptions) if heard(store, each))
        assert woken == {0, 1, 2}
        for subscription in subscriptions:
            subscription.close()

    @pytest.mark.parametrize("change", [*CHANGES, "set an interim value", "delete"])
    def test_every_commit_is_announced(self, store: Store, subscription: Subscription, change: str) -> None:
        if not self.announces_commits:
            pytest.skip("the store does not announce its commits")
        changes: dict[str, Callable[[Store], object]] = {
            **CHANGES,
            "set an interim value": lambda store: store.set(b"key", b"", interim=True),
            "delete": lambda store: store.delete(b"other"),
        }
        store.set(b"other", b"")
        subscription.follow([EVERY_COMMIT])
        changes[change](store)
        assert is_readable(subscription)
        assert subscription.drain() == {EVERY_COMMIT}
        assert not is_readable(subscription, 0)
        subscription.remove([EVERY_COMMIT])
        store.set(b"key", b"1")
        assert not is_readable(subscription, 0)

    def test_the_moment_differs_after_every_change(self, store: Store) -> None:
        if store.moment() is None:
            pytest.skip("the store has no moment()")
        for name, change in CHANGES.items():
            store.delete(b"key")
            before = store.moment()
            assert store.moment() == before
            change(store)
            assert name == "notify" or store.moment() != before

    def test_a_closed_subscription_is_quiet_and_stays_closed(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])
        subscription.close()
        subscription.close()
        subscription.ring()
        assert subscription.fileno() == -1
        assert subscription.add([b"key"]) == {b"key": None}
        assert subscription.fileno() == -1
        store.set(b"key", b"done")
        assert subscription.drain() is None

    def test_closing_the_store_closes_its_subscriptions(self, store: Store, subscription: Subscription) -> None:
        subscription.add([b"key"])
        store.close()
        assert subscription.fileno() == -1
        subscription.close()
