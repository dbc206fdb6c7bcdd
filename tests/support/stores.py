"""Stores to test with, and refusals that must leave everything as it was."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_store
from tests.support.processes import in_child, in_thread

__all__ = ["filled", "picture", "refusal", "sound_store"]


@contextmanager
def sound_store(path: Path) -> Iterator[LMDBStore]:
    """A store that is sound at the end, and that a thread and a process can still write to: no lock is left held."""
    with open_store(path, durability="none") as store:
        yield store
        in_thread(store.set, b"from a thread", b"value")
        in_child(store.set, b"from a child", b"value")
        assert store.check() == []


def picture(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about what lies in a folder, except when it was read."""
    found = {}
    for entry in os.scandir(folder):
        status = entry.stat(follow_symlinks=False)
        content = Path(entry.path).read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[entry.name] = (status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, content)
    return found


def refusal(path: Path, kind: type[Exception], cure: str, names: str = "", **options: object) -> None:
    """See that a path is refused with one class of error that names path and cure, and nothing is touched."""
    folder = path.parent if path.parent.is_dir() else path.parent.parent
    before = picture(folder)
    with pytest.raises(errors.StoreError) as caught:
        open_store(path, **options)
    assert type(caught.value) is kind
    assert (names or str(path)) in str(caught.value)
    assert cure in str(caught.value)
    assert picture(folder) == before


def filled(path: Path, count: int = 2000) -> Path:
    """A store of half a megabyte, closed."""
    with open_store(path, durability="none") as store, store.write() as txn:
        for number in range(count):
            txn.set(b"key %d" % number, b"value" * 40)
    return path
