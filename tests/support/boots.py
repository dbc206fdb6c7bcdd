"""Boots of the machine, as far as a store can tell: a process that believes it runs in a later one."""

import os
from collections.abc import Callable
from typing import Any

from lmdbresults import open_store
from lmdbresults.process import boot
from lmdbresults.store.lmdb.engine.registry import environments
from tests.support.processes import in_child


def in_boot(name: str, work: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns, run in a forked process in another boot, which ends as by kill -9."""

    def run() -> Any:
        boot.boot_id = lambda: name
        environments.close_dropped = lambda: None  # a thread could cover what `work` has dropped, before the end
        return work(*args)

    return in_child(run)


def keys_in(path: str | os.PathLike[str], **options: Any) -> list[bytes]:
    """The keys of a store that is sound, which is left without closing it."""
    store = open_store(path, **options)
    assert store.check(deep=True) == []
    return sorted(key for key, _ in store.scan())


def keys_in_next_boot(path: str | os.PathLike[str]) -> list[bytes]:
    """The keys that a store has after a power failure, with which all that was not synced may have gone."""
    keys: list[bytes] = in_boot("next", keys_in, path)
    return keys


def left_to_go_back(path: str | os.PathLike[str]) -> None:
    """Leave a store as it is after a power failure: the value of its only key was overwritten since the checkpoint."""

    def write() -> None:
        store = open_store(path, checkpoint_interval=3600)
        store.set(b"key", b"durable")
        store.flush()
        store.set(b"key", b"not durable")

    in_boot("an earlier boot", write)
