"""What the tests of waiting share: who waits for ever unless woken, and threads that have to come to their end."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmdbresults import LMDBStore
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify import registrations as watching
from lmdbresults.store.subscriptions import Hub, Listener

#: Seconds that nobody waits for: whoever hangs runs into the test's timeout.
FOREVER = 3600.0


def is_absent(value: bytes | None) -> bool:
    return value is None


def wait_for(hub: Hub, keys: list[bytes], every_change: bool = False) -> None:
    """Wait until none of the keys is absent any more."""
    left, unheard = set(keys), list(keys)
    with Listener(hub) as listener:
        while left:
            left.difference_update(listener.listen([key for key in unheard if key in left], is_absent))
            if not left:
                return
            changed = listener.wait(FOREVER)
            unheard = list(left if changed is None else changed)


@contextmanager
def threads(count: int, work: Callable[[int], object]) -> Iterator[list[threading.Thread]]:
    """Run work in threads meanwhile; at the end of the block all of them come to theirs."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in running:
        thread.start()
    yield running
    for thread in running:
        thread.join(30)
    assert not any(thread.is_alive() for thread in running), "a thread hangs"
    assert failures == []


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so, which the test cannot be told."""
    while not is_so():
        time.sleep(0.001)


def is_readable(subscription: Subscription) -> bool:
    return bool(select.select([subscription.fileno()], [], [], 0)[0])


def folder_of(store: LMDBStore) -> Path:
    return Path(store.options.path + "-wake")


def registrations(store: LMDBStore) -> int:
    found, _ = store._environment.read(watching.waiters.page, b"", 10_000)
    return len(found)
