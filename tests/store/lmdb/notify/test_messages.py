"""Values that come with the message: which do, and which of them are not believed."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.base import Subscription, WriteTransaction
from lmdbresults.store.lmdb.notify import messages
from lmdbresults.store.lmdb.notify.sockets import WakeFolder
from lmdbresults.store.lmdb.records import waiters
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from lmdbresults.testing import FakeClock
from tests.support.waits import FOREVER, folder_of

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def subscription(store: LMDBStore) -> Iterator[Subscription]:
    subscription = store.subscribe()
    yield subscription
    subscription.close()


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[waiters.News]:
    """What was to be sent, and is not."""
    posted: list[waiters.News] = []
    monkeypatch.setattr(WakeFolder, "send", lambda folder, news: posted.extend(news))
    return posted


def send(store: LMDBStore, datagram: bytes) -> None:
    """Send a datagram to the only socket beside the file."""
    (name,) = folder_of(store).iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(datagram, str(name))


class TestWhatComes:
    """With a message."""

    @pytest.mark.parametrize("key", [b"key", b"k" * 600])
    @pytest.mark.parametrize("ttl", [None, 60.0])
    def test_a_small_value_does(
        self, store: LMDBStore, subscription: Subscription, key: bytes, ttl: float | None
    ) -> None:
        subscription.add([key])
        store.set(key, b"done", ttl)
        assert subscription.receive(FOREVER) == {key: (store.moment(), b"done")}

    @pytest.mark.parametrize("size", [2049, 20_000])
    def test_a_large_value_does_not(self, store: LMDBStore, subscription: Subscription, size: int) -> None:
        subscription.add([b"key"])
        store.set(b"key", bytes(size))
        assert subscription.receive(FOREVER) == {b"key": None}

    def test_an_interim_value_does_not(self, store: LMDBStore, subscription: Subscription) -> None:
        subscription.add([b"key"], every_change=True)
        store.set(b"key", b"...", interim=True)
        assert subscription.receive(FOREVER) == {b"key": None}

    def test_nothing_comes_of_a_value_that_is_deleted_or_expires(
        self, store: LMDBStore, subscription: Subscription, clock: FakeClock
    ) -> None:
        for key in (b"deleted", b"expired"):
            store.set(key, b"...", ttl=60.0)
            subscription.add([key])
        store.delete(b"deleted")
        clock.advance(60.0)
        store.sweep()
        assert subscription.receive(FOREVER) == {b"deleted": None, b"expired": None}

    def test_many_values_of_one_transaction_all_do(self, store: LMDBStore, subscription: Subscription) -> None:
        keys = [b"%d" % number for number in range(9)]
        subscription.add(keys)
        with store.write() as txn:
            for key in keys:
                txn.set(key, key * 1000)
        assert subscription.receive(FOREVER) == {key: (store.moment(), key * 1000) for key in keys}

    def test_nothing_comes_of_a_transaction_that_is_undone(
        self, store: LMDBStore, subscription: Subscription, posted: list[waiters.News]
    ) -> None:
        def set_and_fail(txn: WriteTransaction) -> None:
            txn.set(b"key", b"done")
            raise LookupError

        subscription.add([b"key"])
        with pytest.raises(LookupError):
            store.update(set_and_fail)
        assert posted == []


class TestWhatIsBelieved:
    """Of what has come."""

    def test_none_that_has_expired_on_its_way(
        self, store: LMDBStore, subscription: Subscription, clock: FakeClock
    ) -> None:
        subscription.add([b"key"])
        store.set(b"key", b"done", ttl=1.0)
        clock.advance(1.0)
        assert subscription.receive(FOREVER) == {b"key": None}

    def test_none_that_was_committed_before_the_wait_began(
        self, store: LMDBStore, hub: ThreadHub, posted: list[waiters.News]
    ) -> None:
        """Its writer was held up between the commit and the message; meanwhile the value was forgotten."""
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            store.set(b"key", b"old")
            [news] = posted
            store.delete(b"key")
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            send(store, news.message)
            assert next(wait) == {b"key": None}

    @pytest.mark.parametrize(
        "datagram",
        [
            b"!",
            os.urandom(3000),
            bytes(35),
            struct.pack(">16sBQdH", waiters.topic_of(place_of(b"key")), messages.VALUE, 1 << 60, 0.0, 500) + b"short",
            messages.message(waiters.topic_of(place_of(b"another")), False, 1 << 60, b"forged"),
        ],
    )
    def test_what_nobody_of_ours_has_sent_does_no_harm(
        self, store: LMDBStore, subscription: Subscription, datagram: bytes
    ) -> None:
        subscription.add([b"key"])
        send(store, datagram)
        assert subscription.receive(0) in ({}, {b"key": None})
        assert set(subscription.add([b"key"]).values()) == {None}
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER) == {b"key": (store.moment(), b"done")}


class TestLines:
    """Sockets that are kept connected to those who were woken."""

    def test_there_are_few_however_many_wait(self, store: LMDBStore) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            subscription = store.subscribe()
            subscription.add([b"%d" % number])
            store.set(b"%d" % number, b"done")
            assert subscription.drain() == {b"%d" % number}
            subscription.close()
        assert len(os.listdir("/proc/self/fd")) <= before + 18

    def test_one_to_a_box_that_is_gone_is_given_up(self, store: LMDBStore, subscription: Subscription) -> None:
        subscription.add([b"first", b"second"])
        store.set(b"first", b"done")
        subscription._finalizer()  # as if its process had been killed
        store.set(b"second", b"done")
        assert store._wakes._lines == {}
        assert not folder_of(store).exists()


def test_a_full_queue_is_noticed_though_only_one_key_is_waited_for(
    store: LMDBStore, subscription: Subscription
) -> None:
    """The marker is looked for at least once in as many messages as a queue takes."""
    keys = [b"%d" % number for number in range(40)]
    subscription.add([*keys, b"key"])
    for key in keys:
        store.set(key, b"done")
    store.set(b"key", b"done")
    subscription._registered.clear()  # as if nothing was waited for but what has been read
    received = []
    while (changed := subscription.receive(0)) is not None:
        received.append(changed)
        assert changed
    assert len(received) < store._wakes.queue_length
    assert subscription.add([b"key"]) == {b"key": b"done"}
