"""Backends for tests: in a file that is checked at the end, and over a dict, so that tests do not depend on LMDB."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from lmdbresults.app import Settings, Signature
from lmdbresults.backends import KeyValueStoreBackend, LMDBBackend, open_backend


@contextmanager
def opened(path: str, **options: Any) -> Iterator[LMDBBackend]:
    """Open a backend that does not sync. Its file must be sound afterwards."""
    backend = open_backend(path, durability="none", **options)
    assert isinstance(backend, LMDBBackend)
    try:
        yield backend
        assert backend.store.check() == []
    finally:
        backend.process_cleanup()


class DictBackend(KeyValueStoreBackend):
    """The four operations that results take, over a dict. It cannot count."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data: dict[Any, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.data.get(key) for key in keys]

    def set(self, key: bytes, value: bytes) -> None:
        self.data[key] = value

    def delete(self, key: bytes) -> None:
        self.data.pop(key, None)


class OwnApp:
    """The few members of an app that a backend uses. Dispatched signatures are kept."""

    def __init__(self, **conf: Any) -> None:
        self.conf = Settings(**conf)
        self.tasks: dict[str, Any] = {}
        self.dispatched: list[tuple[Signature, tuple[Any, ...]]] = []

    def now(self) -> datetime:
        return datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def signature(self, task: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Signature:
        mapping = task if isinstance(task, dict) else {"task": task, "args": args, "kwargs": kwargs}
        return Signature(SimpleNamespace(backend=None), mapping).set(**options)

    def dispatch(self, signature: Signature, args: Sequence[Any] = ()) -> None:
        self.dispatched.append((signature, tuple(args)))

    def add(self, name: str, run: Any, backend: Any = None) -> None:
        """Register a task, which is anything with ``run`` and ``backend``."""
        self.tasks[name] = SimpleNamespace(name=name, run=run, backend=backend)
