"""What the tests of waiting share: a wait without a timeout, and threads that must end."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmdbresults import LMDBStore
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify import registrations as watching
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait

#: Seconds that are never over: what hangs runs into the timeout of the test.
FOREVER = 3600.0


def wait_for(hub: ThreadHub, keys: list[bytes], every_change: bool = False) -> None:
    """Wait until each of the keys exists."""
    left = set(keys)
    with ThreadWait(hub, keys, every_change=every_change) as wait:
        for values in wait:
            left.difference_update(key for key, value in values.items() if value is not None)
            if not left:
                return


@contextmanager
def threads(count: int, work: Callable[[int], object]) -> Iterator[list[threading.Thread]]:
    """Run work in threads during the block; all of them must end with it."""
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
    """Poll until a condition holds."""
    while not is_so():
        time.sleep(0.001)


def is_readable(subscription: Subscription) -> bool:
    return bool(select.select([subscription.fileno()], [], [], 0)[0])


def folder_of(store: LMDBStore) -> Path:
    return Path(store.options.path + "-wake")


def registrations(store: LMDBStore) -> int:
    found, _ = store._environment.read(watching.waiters.page, b"", 10_000)
    return len(found)
