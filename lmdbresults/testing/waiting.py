"""What mailboxes hear of a store, and when they hear nothing."""

import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from lmdbresults.store.base import Mailbox, Store
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


def is_absent(value: bytes | None) -> bool:
    return value is None


def is_pending(value: bytes | None) -> bool:
    return value is None or value.startswith(b"...")


def is_readable(mailbox: Mailbox) -> bool:
    return bool(select.select([mailbox.fileno()], [], [], 0)[0])


class Waiting:
    """Registering a mailbox for keys, and what arrives in it."""

    @pytest.fixture
    def mailbox(self, store: Any) -> Iterator[Mailbox]:
        """A mailbox of the store."""
        mailbox = store.mailbox()
        yield mailbox
        mailbox.close()

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_arrives_and_uses_the_registration_up(self, store: Any, mailbox: Mailbox, change: str) -> None:
        assert mailbox.register([b"key"], is_absent) == []
        assert mailbox.drain() == set()
        CHANGES[change](store)
        assert is_readable(mailbox)
        assert mailbox.drain() == {b"key"}
        assert not is_readable(mailbox)
        store.set(b"key", b"again")
        assert mailbox.drain() == set()

    def test_a_key_that_was_used_up_can_be_registered_again(self, store: Any, mailbox: Mailbox) -> None:
        for _ in range(3):
            assert mailbox.register([b"key"], is_absent) == []
            store.set(b"key", b"done")
            assert mailbox.drain() == {b"key"}
            store.delete(b"key")
            assert mailbox.drain() == set()

    def test_what_is_not_pending_is_returned_and_not_registered(self, store: Any, mailbox: Mailbox) -> None:
        store.set(b"ready", b"done")
        store.set(b"begun", b"...")
        assert mailbox.register([b"ready", b"absent", b"begun"], is_pending) == [b"ready"]
        for key in (b"ready", b"absent", b"begun"):
            store.set(key, b"done")
        assert mailbox.drain() == {b"absent", b"begun"}

    def test_what_is_found_ready_is_still_told_to_who_had_registered_before(self, store: Any, mailbox: Mailbox) -> None:
        assert mailbox.register([b"key"], is_absent) == []
        store.set(b"key", b"done")
        assert mailbox.register([b"key"], is_absent, every_change=True) == [b"key"]
        assert mailbox.drain() == {b"key"}

    def test_other_keys_are_not_heard_of(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        for other in (b"", b"ke", b"key\0", b"key2", b"k" * 600):
            store.set(other, b"done")
        assert mailbox.drain() == set()

    @pytest.mark.parametrize("length", KEY_LENGTHS)
    def test_a_key_may_have_any_length(self, store: Any, mailbox: Mailbox, length: int) -> None:
        key = b"k" * length
        assert mailbox.register([key], is_absent) == []
        assert store.get(key) is None
        assert list(store.scan()) == []
        store.set(key, b"done")
        assert mailbox.drain() == {key}
        assert store.get(key) == b"done"

    def test_being_waited_for_does_not_make_a_record(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key", b"added", b"counter"], is_absent)
        assert store.mget([b"key", b"added"]) == [None, None]
        assert store.ttl(b"key") is None
        assert store.expire(b"key", 10.0) is False
        assert store.delete(b"key") is False
        assert store.set(b"key", b"done", keep_prefix=b"done") is True
        assert store.add(b"added", b"done") is True
        assert store.incr(b"counter") == 1
        assert store.sweep() == 0

    def test_an_interim_value_is_for_those_who_asked_for_every_change(self, store: Any, mailbox: Mailbox) -> None:
        other = store.mailbox()
        mailbox.register([b"key"], is_pending)
        other.register([b"key"], is_pending, every_change=True)
        for number in range(3):
            store.set(b"key", b"...%d" % number, interim=True)
            assert mailbox.drain() == set()
            assert other.drain() == {b"key"}
        store.set(b"key", b"done")
        assert (mailbox.drain(), other.drain()) == ({b"key"}, {b"key"})
        other.close()

    @pytest.mark.parametrize("first", [False, True])
    def test_asking_for_every_change_once_is_enough(self, store: Any, mailbox: Mailbox, first: bool) -> None:
        mailbox.register([b"key"], is_pending, every_change=first)
        mailbox.register([b"key"], is_pending, every_change=not first)
        store.set(b"key", b"...", interim=True)
        assert mailbox.drain() == {b"key"}
        store.set(b"key", b"done")
        assert mailbox.drain() == {b"key"}

    def test_a_final_value_stays_final_if_an_interim_one_follows_in_its_transaction(
        self, store: Any, mailbox: Mailbox
    ) -> None:
        mailbox.register([b"key"], is_pending)
        with store.write() as txn:
            txn.set(b"key", b"done")
            txn.set(b"key", b"...", interim=True)
        assert mailbox.drain() == {b"key"}
        assert mailbox.register([b"key"], is_pending) == []
        store.set(b"key", b"done")
        assert mailbox.drain() == {b"key"}

    def test_a_delete_is_a_change(self, store: Any, mailbox: Mailbox) -> None:
        store.set(b"key", b"...")
        mailbox.register([b"key"], is_pending)
        store.delete(b"key")
        assert mailbox.drain() == {b"key"}

    @pytest.mark.parametrize("sweep", [lambda store: store.sweep(), lambda store: store.set(b"other", b"")])
    def test_an_expiry_is_a_change_once_it_is_swept(
        self, store: Any, mailbox: Mailbox, clock: FakeClock, sweep: Callable[[Store], object]
    ) -> None:
        store.set(b"key", b"...", ttl=10.0)
        mailbox.register([b"key"], is_pending)
        clock.advance(10.0)
        sweep(store)
        assert mailbox.drain() == {b"key"}

    def test_what_changes_nothing_wakes_nobody(self, store: Any, mailbox: Mailbox) -> None:
        store.set(b"key", b"...")
        mailbox.register([b"key"], is_pending)
        assert store.set(b"key", b"late", keep_prefix=b"...") is False
        assert store.add(b"key", b"late") is False
        store.expire(b"key", 10.0)
        assert store.get(b"key") == b"..."
        assert not is_readable(mailbox)

    def test_a_transaction_that_is_undone_wakes_nobody(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        with suppress(LookupError), store.write() as txn:
            txn.set(b"key", b"done")
            raise LookupError
        assert not is_readable(mailbox)
        store.set(b"key", b"done")
        assert mailbox.drain() == {b"key"}

    def test_the_message_comes_after_the_commit(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        with store.write() as txn:
            txn.set(b"key", b"done")
            assert not is_readable(mailbox)
        assert mailbox.drain() == {b"key"}

    def test_forgetting_takes_registrations_back(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key", b"other"], is_absent)
        mailbox.forget([b"key", b"never registered"])
        store.set(b"key", b"done")
        store.set(b"other", b"done")
        assert mailbox.drain() == {b"other"}
        mailbox.forget([b"other"])
        store.delete(b"key")
        assert mailbox.register([b"key"], is_absent) == []
        store.set(b"key", b"done")
        assert mailbox.drain() == {b"key"}

    def test_every_mailbox_that_is_registered_hears_of_a_change(self, store: Any) -> None:
        mailboxes = [store.mailbox() for _ in range(5)]
        for mailbox in mailboxes:
            assert mailbox.register([b"key"], is_absent) == []
        mailboxes[2].forget([b"key"])
        mailboxes[3].close()
        store.set(b"key", b"done")
        assert [mailboxes[number].drain() for number in (0, 1, 2, 4)] == [{b"key"}, {b"key"}, set(), {b"key"}]
        for mailbox in mailboxes:
            mailbox.close()

    def test_many_keys_in_one_transaction_all_arrive(self, store: Any, mailbox: Mailbox) -> None:
        keys = [b"%d" % number for number in range(600)]
        mailbox.register(keys, is_absent)
        with store.write() as txn:
            for key in keys:
                txn.set(key, b"done")
        assert mailbox.drain() == set(keys)

    def test_ringing_wakes_the_reader_and_says_nothing(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        mailbox.ring()
        assert is_readable(mailbox)
        assert mailbox.drain() == set()
        assert not is_readable(mailbox)

    def test_the_moment_is_another_one_after_every_change(self, store: Any) -> None:
        for change in CHANGES.values():
            store.delete(b"key")
            before = store.moment()
            assert store.moment() == before
            change(store)
            assert store.moment() != before

    def test_a_mailbox_that_is_closed_is_quiet_and_stays_closed(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        mailbox.close()
        mailbox.close()
        mailbox.ring()
        assert mailbox.fileno() == -1
        assert mailbox.register([b"key"], is_absent) == []
        assert mailbox.fileno() == -1
        store.set(b"key", b"done")
        assert mailbox.drain() is None

    def test_closing_the_store_closes_its_mailboxes(self, store: Any, mailbox: Mailbox) -> None:
        mailbox.register([b"key"], is_absent)
        store.close()
        assert mailbox.fileno() == -1
        mailbox.close()
