"""What the tests of waiting share: a wait without a timeout, and threads that must end."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmdbresults import LMDBStore
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify.folder import FOLDER_SUFFIX
from lmdbresults.store.lmdb.notify.marks import HEADER_BYTES
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
        thread.join(240)
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


def followed(subscription: Any) -> set[bytes]:
    """Return the keys that a subscription follows."""
    return set(subscription._keys.values())


def sockets(path: str) -> list[str]:
    """Return the names of the sockets beside a data file."""
    folder = Path(path + FOLDER_SUFFIX)
    return sorted(name for name in os.listdir(folder) if name.isdigit()) if folder.exists() else []


def registrations(path: str) -> int:
    """Return how many keys are followed in all processes, about, if there are many."""
    try:
        marks = next(Path(path + FOLDER_SUFFIX).glob("marks-*")).read_bytes()[HEADER_BYTES:]
    except (FileNotFoundError, StopIteration):
        return 0
    return -((marks.count(0) - len(marks)) // 2)  # a key has two marks, which it may share
