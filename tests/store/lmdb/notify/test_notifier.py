"""The writer's side: who is sent what, whatever others have done to the folder, and whichever queue is full."""

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import EVERY_COMMIT, Subscription
from lmdbresults.store.lmdb.notify.notifier import Notifier
from lmdbresults.store.lmdb.notify.subscription import LMDBSubscription
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from tests.store.lmdb.notify.test_marks import keys_with_the_same_rows
from tests.support.processes import FORKS_WITH_THREADS, Barrier, Child, child
from tests.support.waits import FOREVER, folder_of, is_readable, sockets, until

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def subscriptions(store: LMDBStore, count: int, *keys: bytes) -> list[Subscription]:
    made = [store.subscribe() for _ in range(count)]
    for each in made:
        each.add(keys)
    return made


class TestEveryCommit:
    """Subscribers that follow whatever changes."""

    def test_commits_are_announced_once_until_that_is_read(self, path: str, store: LMDBStore) -> None:
        (watcher,) = subscriptions(store, 1, EVERY_COMMIT)
        for number in range(50):  # more than a queue takes
            store.set(b"key", b"%d" % number)
        assert watcher.drain() == {EVERY_COMMIT}  # not None, as after a loss
        assert not is_readable(watcher)
        store.set(b"key", b"done")
        assert watcher.drain() == {EVERY_COMMIT}
        watcher.close()

    def test_an_unread_message_about_a_key_announces_later_commits(self, store: LMDBStore) -> None:
        (watcher,) = subscriptions(store, 1, EVERY_COMMIT, b"key")
        store.set(b"key", b"done")
        store.set(b"other", b"")
        assert watcher.drain() == {EVERY_COMMIT, b"key"}
        watcher.close()


class TestAll:
    """Every box that follows a key."""

    def test_boxes_of_several_groups_are_all_told(self, store: LMDBStore) -> None:
        made = subscriptions(store, 70, b"key")
        store.set(b"key", b"done")
        assert [each.drain() for each in made] == [{b"key"}] * 70
        for each in made:
            each.close()

    def test_few_sockets_are_kept_open_however_many_wait(self, store: LMDBStore) -> None:
        store.set(b"key", b"value")
        before = len(os.listdir("/proc/self/fd"))
        made = subscriptions(store, 50, b"key")
        store.set(b"key", b"done")
        for each in made:
            each.close()
        assert len(os.listdir("/proc/self/fd")) <= before + 16 + 2

    def test_a_subscriber_that_comes_while_a_writer_is_in_its_transaction_is_told(
        self, path: str, store: LMDBStore
    ) -> None:
        def subscribe() -> bool:
            barrier.wait()
            with open_store(path, durability="none") as own:
                subscription = own.subscribe()
                values = subscription.add([b"key"])
                os.write(begun, b"!")
                return values == {b"key": None} and set(subscription.receive(10.0) or ()) == {b"key"}

        ours, begun = os.pipe()
        barrier = Barrier()
        with child(subscribe) as process:
            with store.write() as txn:
                txn.set(b"key", b"done")
                barrier.open()
                os.read(ours, 1)
            assert process.join()

    def test_a_wait_goes_on_if_the_writer_dies_before_it_sends(self, store: LMDBStore, hub: ThreadHub) -> None:
        def write_and_die() -> None:
            Notifier.send = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            store.set(b"key", b"done")

        with ThreadWait(hub, [b"key"]) as wait:
            next(wait)
            writer = Child(write_and_die)
            writer.wait()
            writer.close()
            while not next(wait):
                pass

    def test_a_former_owner_of_a_box_does_not_keep_messages_from_the_next(self, store: LMDBStore) -> None:
        [first] = subscriptions(store, 1, b"key")
        store.set(b"key", b"connected")
        first.close()
        [second] = subscriptions(store, 1, b"key")
        assert sockets(store.options.path) == ["0"]
        store.set(b"key", b"done")
        assert second.drain() == {b"key"}
        second.close()


class TestOne:
    """One of the boxes that follow a topic."""

    def test_each_subscriber_has_its_turn(self, store: LMDBStore) -> None:
        made = subscriptions(store, 3, b"topic")
        for _ in range(3):
            store.update(lambda txn: [txn.set(b"key", b""), txn.notify(b"topic", one=True)])
        assert sorted(len(each.drain() or ()) for each in made) == [1, 1, 1]
        for each in made:
            each.close()

    def test_one_that_has_not_read_the_message_before_is_passed_over(self, store: LMDBStore) -> None:
        made = subscriptions(store, 3, b"topic")
        for _ in range(3):
            store.notify(b"topic", one=True)
        assert [len(each.drain() or ()) for each in made] == [1, 1, 1]
        store.notify(b"topic", one=True)
        [stopped] = [each for each in made if is_readable(each)]
        for _ in range(4):
            store.notify(b"topic", one=True)
            [woken] = [each for each in made if each is not stopped and is_readable(each)]
            woken.drain()
        for each in made:
            each.close()

    def test_one_that_is_being_closed_is_passed_over(self, store: LMDBStore) -> None:
        closing_one, other = subscriptions(store, 2, b"topic")
        for _ in range(2):
            store.notify(b"topic", one=True)
        assert [each.drain() for each in (closing_one, other)] == [{b"topic"}] * 2
        assert isinstance(closing_one, LMDBSubscription)
        assert closing_one._box is not None
        closing_one._box.refuse()
        for _ in range(3):
            store.notify(b"topic", one=True)
            assert other.drain() == {b"topic"}
        for each in (closing_one, other):
            each.close()

    def test_one_that_stops_following_as_it_is_chosen_is_not_the_only_one(
        self, store: LMDBStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It drains its box before the message is there, then works for a long time and does not read."""
        made = subscriptions(store, 3, b"topic")
        send, stopped = store._notifier._send_datagram, list[Subscription]()

        def stop_and_send(box: int, datagram: bytes) -> bool:
            if not stopped:
                stopped.append(made[box])
                made[box].remove([b"topic"])
                assert made[box].drain() == set()
            return send(box, datagram)

        monkeypatch.setattr(store._notifier, "_send_datagram", stop_and_send)
        store.notify(b"topic", one=True)
        [left] = stopped
        assert sorted(len(each.drain() or ()) for each in made if each is not left) == [0, 1]
        for each in made:
            each.close()

    def test_one_that_follows_nothing_passes_on_all_that_it_has_not_read(self, store: LMDBStore) -> None:
        busy, idle = subscriptions(store, 2, b"topic", b"other")
        idle.remove([b"topic", b"other"])
        store.notify(b"topic", one=True)
        store.notify(b"other", one=True)
        idle.add([b"topic", b"other"])
        busy.remove([b"topic", b"other"])
        assert busy.drain() == set()
        assert idle.drain() == {b"topic", b"other"}
        busy.close()
        idle.close()

    def test_of_consumers_that_come_and_go_the_idle_one_is_woken(self, store: LMDBStore) -> None:
        first, second = store.subscribe(), store.subscribe()
        for idle, busy in [(first, second), (second, first)] * 3:
            busy.remove([b"topic"])
            idle.follow([b"topic"])
            store.notify(b"topic", one=True)
            assert busy.drain() == set()
            assert idle.drain() == {b"topic"}
        first.close()
        second.close()

    def test_killed_subscribers_are_skipped(self, path: str, store: LMDBStore, subscription: Subscription) -> None:
        def follow() -> None:
            with open_store(path, durability="none") as own, closing(own.subscribe()) as each:
                each.add([b"topic"])
                own.set(b"follows", b"")
                signal.pause()

        for _ in range(3):
            store.delete(b"follows")
            with child(follow):
                until(lambda: store.get(b"follows") is not None)
        subscription.add([b"topic"])
        for _ in range(5):
            store.set(b"key", b"value")
            store.notify(b"topic", one=True)
            assert subscription.drain() == {b"topic"}

    def test_a_full_queue_is_skipped(self, store: LMDBStore) -> None:
        first, second = subscriptions(store, 2, b"topic")
        first.add([b"key"])
        for _ in range(20):
            store.set(b"key", b"value")
        for number in range(5):
            store.set(b"other", b"%d" % number)
            store.notify(b"topic", one=True)
            assert second.drain() == {b"topic"}
        assert first.drain() is None
        first.close()
        second.close()

    def test_if_all_queues_are_full_one_subscriber_looks_at_everything(self, store: LMDBStore) -> None:
        made = subscriptions(store, 2, b"topic")
        for _ in range(100):
            made[0].ring()
            made[1].ring()
        store.notify(b"topic", one=True)
        assert sorted(each.drain() is None for each in made) == [False, True]
        for each in made:
            each.close()

    def test_a_closed_subscription_passes_on_what_it_has_not_read(self, store: LMDBStore) -> None:
        made = subscriptions(store, 3, b"topic")
        store.notify(b"topic", one=True)
        [woken] = [each for each in made if is_readable(each)]
        others = [each for each in made if each is not woken]
        woken.close()
        assert sorted(len(each.drain() or ()) for each in others) == [0, 1]
        for each in others:
            each.close()

    def test_a_subscriber_that_was_taken_for_another_passes_the_message_on(self, store: LMDBStore) -> None:
        topic, other = keys_with_the_same_rows()
        [wrong], [right] = subscriptions(store, 1, other), subscriptions(store, 1, topic)
        for number in range(4):
            store.set(b"key", b"%d" % number)
            store.notify(topic, one=True)
            assert wrong.drain() == set()
            assert right.drain() == {topic}
        wrong.close()
        right.close()


class TestFullQueues:
    """Queues take few messages, and writers never wait."""

    def test_no_change_is_missed_while_the_reader_sleeps(self, store: LMDBStore, subscription: Subscription) -> None:
        keys = [b"%d" % number for number in range(1000)]
        subscription.add(keys)
        for key in keys:
            store.set(key, b"done")
        assert subscription.drain() is None
        assert set(subscription.add(keys).values()) == {b"done"}
        assert subscription.drain() == set()

    def test_it_is_noticed_though_only_removed_keys_were_read(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        keys = [b"%d" % number for number in range(100)]
        subscription.add([*keys, b"key"])
        for key in keys:
            store.set(key, b"done")
        store.set(b"key", b"done")
        subscription.remove(keys)
        assert subscription.drain() is None

    def test_it_is_noticed_though_the_reader_leaves_messages_for_later(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key", b"other"])
        for _ in range(100):
            store.set(b"key", b"value")
        subscription.remove([b"other"])  # so that one message is all that is waited for
        assert subscription.drain() is None

    def test_a_full_queue_keeps_nothing_from_others(self, store: LMDBStore) -> None:
        made = [store.subscribe() for _ in range(60)]
        for number, each in enumerate(made):
            each.add([b"%d/%d" % (number, turn) for turn in range(12)])
        for turn in range(12):
            for number in range(60):
                store.set(b"%d/%d" % (number, turn), b"done")
        assert [number for number, each in enumerate(made) if not is_readable(each)] == []
        assert {each.drain() for each in made} == {None}
        for each in made:
            each.close()


class TestCleaners:
    """What happens if the folder, or a file in it, is removed while it is in use."""

    @pytest.mark.parametrize("what", ["folder", "marks", "socket"])
    def test_writer_and_subscriber_find_each_other_again(
        self, store: LMDBStore, subscription: Subscription, what: str
    ) -> None:
        subscription.add([b"key"])
        store.set(b"other", b"value")
        folder = folder_of(store)
        {
            "folder": lambda: shutil.rmtree(folder),
            "marks": (folder / "marks-1").unlink,
            "socket": (folder / "0").unlink,
        }[what]()
        subscription._verify_at = store._notifier._verify_at = 0.0  # as if a second had passed
        assert subscription.receive(0) is None
        assert subscription.receive(0) == {}
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER) == {b"key": b"done"}
        assert len(list(folder.iterdir())) == 2

    def test_what_is_in_use_works_on_without_its_names_until_that_is_noticed(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        store.set(b"key", b"connected")
        assert subscription.receive(FOREVER)
        shutil.rmtree(folder_of(store))
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER)

    def test_closing_leaves_the_socket_of_another_that_has_the_same_name(
        self, store: LMDBStore, subscription: Subscription
    ) -> None:
        subscription.add([b"key"])
        shutil.rmtree(folder_of(store))
        [other] = subscriptions(store, 1, b"key")
        subscription.close()
        assert sockets(store.options.path) == ["0"]
        other.close()

    def test_a_data_file_without_permission_for_a_folder_is_written(self, path: str, store: LMDBStore) -> None:
        Path(path + "-wake").touch()
        store.set(b"key", b"value")
        store._notifier._verify_at = 0.0
        assert store.set(b"key", b"value")
