"""The bytes of messages, and the values that come with them."""

import os
import socket

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.base import Subscription, WriteTransaction
from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES, messages_in, pack
from lmdbresults.store.lmdb.notify.notifier import Notifier
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.lmdb.types import FINAL, SHORT_VALUE, Change
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from lmdbresults.testing import FakeClock
from tests.support.waits import FOREVER, folder_of, sockets


@pytest.fixture
def kept_back(monkeypatch: pytest.MonkeyPatch) -> list[Change]:
    """What was to be sent, and is not."""
    kept: list[Change] = []
    monkeypatch.setattr(Notifier, "send", lambda notifier, changes, moment: kept.extend(changes))
    return kept


def send(store: LMDBStore, datagram: bytes) -> None:
    """Send a datagram to the only socket beside the file."""
    [name] = sockets(store.options.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(datagram, str(folder_of(store) / name))


class TestBytes:
    """What a datagram is made of."""

    def test_messages_are_read_as_they_were_written(self) -> None:
        messages = [
            (b"kkey", FINAL, 7, 60.5, b"value"),
            (b"k", 0, 1 << 60, 0.0, b""),
            (b"h" * 33, 2, 0, 0.0, None),
        ]
        assert messages_in(b"".join(pack(*each) for each in messages)) == messages

    def test_the_longest_message_fits_a_datagram(self) -> None:
        assert len(pack(place_of(b"k" * 501), FINAL, 1 << 60, 1.0, bytes(SHORT_VALUE))) <= DATAGRAM_BYTES

    def test_a_datagram_that_is_cut_anywhere_yields_the_messages_before(self) -> None:
        first, second = pack(b"kfirst", FINAL, 1, 0.0, b"value"), pack(b"ksecond", FINAL, 2)
        for length in range(len(second)):
            assert [each[0] for each in messages_in(first + second[:length])] == [b"kfirst"]


class TestValuesThatCome:
    """With a message."""

    @pytest.mark.parametrize("key", [b"key", b"k" * 600])
    @pytest.mark.parametrize("ttl", [None, 60.0])
    def test_a_small_value_comes(
        self, store: LMDBStore, subscription: Subscription, key: bytes, ttl: float | None
    ) -> None:
        subscription.add([key])
        store.set(key, b"done", ttl)
        assert subscription.receive(FOREVER) == {key: b"done"}

    def test_a_small_value_of_a_transaction_comes(self, store: LMDBStore, subscription: Subscription) -> None:
        subscription.add([b"key", b"other"])
        store.update(lambda txn: txn.set(b"key", b"done"))
        assert subscription.receive(FOREVER) == {b"key": b"done"}
        with store.write() as txn:
            txn.set(b"other", b"done")
        assert subscription.receive(FOREVER) == {b"other": b"done"}

    @pytest.mark.parametrize("size", [SHORT_VALUE + 1, 20_000])
    def test_a_large_value_does_not_come(self, store: LMDBStore, subscription: Subscription, size: int) -> None:
        subscription.add([b"key"])
        store.set(b"key", bytes(size))
        assert subscription.receive(FOREVER) == {b"key": None}

    def test_an_interim_value_does_not_come(self, store: LMDBStore, subscription: Subscription) -> None:
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

    def test_many_values_of_one_transaction_all_come(self, store: LMDBStore, subscription: Subscription) -> None:
        keys = [b"%d" % number for number in range(9)]
        subscription.add(keys)
        store.update(lambda txn: [txn.set(key, key * 1000) for key in keys])
        assert subscription.receive(FOREVER) == {key: key * 1000 for key in keys}

    def test_nothing_comes_of_a_transaction_that_is_undone(
        self, store: LMDBStore, subscription: Subscription, kept_back: list[Change]
    ) -> None:
        def set_and_fail(txn: WriteTransaction) -> None:
            txn.set(b"key", b"done")
            raise LookupError

        subscription.add([b"key"])
        with pytest.raises(LookupError):
            store.update(set_and_fail)
        assert kept_back == []


class TestValuesThatAreAccepted:
    """Of those that have come."""

    def test_a_value_that_has_expired_on_its_way_is_refused(
        self, store: LMDBStore, subscription: Subscription, clock: FakeClock
    ) -> None:
        subscription.add([b"key"])
        store.set(b"key", b"done", ttl=1.0)
        clock.advance(1.0)
        assert subscription.receive(FOREVER) == {b"key": None}

    def test_a_value_that_was_committed_before_the_wait_began_is_refused(
        self, store: LMDBStore, hub: ThreadHub, kept_back: list[Change]
    ) -> None:
        """Its writer was held up between the commit and the message; meanwhile the value was deleted."""
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            store.set(b"key", b"old")
            moment = store.moment()
            store.delete(b"key")
        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            send(store, pack(place_of(b"key"), FINAL, moment, 0.0, b"old"))
            assert next(wait) == {b"key": None}

    @pytest.mark.parametrize(
        "datagram",
        [
            b"!",
            os.urandom(3000),
            bytes(DATAGRAM_BYTES),
            pack(place_of(b"key"), FINAL, 1 << 60, 0.0, bytes(500))[:-1],
            pack(place_of(b"another"), FINAL, 1 << 60, 0.0, b"forged"),
            pack(b"", 255, 0),
        ],
    )
    def test_a_foreign_datagram_is_ignored(self, store: LMDBStore, subscription: Subscription, datagram: bytes) -> None:
        subscription.add([b"key"])
        send(store, datagram)
        assert subscription.receive(0) == {}
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER) == {b"key": b"done"}
