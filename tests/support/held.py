"""An app whose tasks wait until the test runs them, in any order and any number of times."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmdbresults.app import App, Signature
from lmdbresults.backends import KeyValueStoreBackend, StoreBackend, open_backend
from lmdbresults.store import Store
from lmdbresults.store.base import Checkable
from lmdbresults.testing import FakeClock, MemoryStore

Task = dict[str, Any]
#: What a queue carries: a task, and what it gets before its own arguments.
Held = tuple[Task, tuple[Any, ...]]


class HeldApp(App):
    """Holds what is dispatched in a list, as the plain values that a queue would carry."""

    def __init__(self, **conf: Any) -> None:
        super().__init__({"result_chord_join_timeout": 0.01, **conf})
        self.held: list[Held] = []
        #: What the body of each chord was called with.
        self.gathered: list[Any] = []
        #: What errbacks were called with.
        self.errors: list[tuple[Any, ...]] = []
        self.task(lambda x: x, name="same")
        self.task(self._raise, name="fail")
        self.task(self._gather, name="gather")
        self.task(lambda request, error, traceback: self.errors.append((request, error, traceback)), name="new style")
        self.task(lambda task_id: self.errors.append((task_id,)), name="old style")

    def _raise(self, *args: Any) -> None:
        raise ValueError(*args)

    def _gather(self, values: Any) -> Any:
        self.gathered.append(values)
        return values

    def dispatch(self, signature: Signature, args: Sequence[Any] = ()) -> None:
        self.held.append((json.loads(json.dumps(signature)), tuple(args)))

    def run_held(self) -> None:
        """Run all held tasks, and those that they dispatch, first in first out."""
        while self.held:
            self.run(*self.held.pop(0))

    def take_held(self) -> list[Task]:
        """Return the held tasks, for the test to run."""
        taken, self.held = [task for task, _ in self.held], []
        return taken

    def parts(self, *values: Any) -> list[Signature]:
        """Tasks that return the values."""
        return [self.signature("same", (value,)) for value in values]

    def body(self, **options: Any) -> Signature:
        """A task that returns the list that it gets."""
        return self.signature("gather", **options)

    @property
    def store(self) -> Store:
        """The store of its backend."""
        return self.require_backend().store  # type: ignore[attr-defined]

    def bookkeeping(self) -> set[bytes]:
        """The keys of chords and groups, without the markers of ended chords."""
        keys = {key for prefix in (b"chord-unlock-", b"celery-taskset-meta-") for key, _ in self.store.scan(prefix)}
        return {key for key in keys if not key.endswith(b".ended") and not self._is_mark(key)}

    def _is_mark(self, key: bytes) -> bool:
        """Whether a key is that of the head of an ended chord, which is all that a store with chords keeps of it."""
        with suppress(TypeError, ValueError):
            return self.store.chords.has_ended(key)
        return False


class FourOperations(KeyValueStoreBackend):
    """The smallest key-value store: each operation is atomic, and there are no counters and no expiry."""

    def __init__(self, *args: Any, store: Store, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store = store

    def get(self, key: bytes) -> bytes | None:
        return self.store.get(key)

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.store.mget(keys)

    def set(self, key: bytes, value: bytes) -> None:
        self.store.set(key, value, self.expires)

    def delete(self, key: bytes) -> None:
        self.store.delete(key)

    def process_cleanup(self) -> None:
        self.store.close()


class SixOperations(FourOperations):
    """What a key-value store like Redis can do without transactions."""

    implements_incr = True

    def incr(self, key: bytes) -> int:
        return self.store.incr(key, ttl=self.expires)

    def expire(self, key: bytes, value: float | None) -> None:
        self.store.expire(key, value)


#: Makes a backend from an app, a clock and a folder.
MakeBackend = Callable[[App, FakeClock, Path], Any]

MAKERS: dict[str, MakeBackend] = {
    "lmdb": lambda app, clock, folder: open_backend(folder / "r.lmdb", app=app, durability="none", clock=clock),
    "memory": lambda app, clock, folder: StoreBackend(app, store=MemoryStore(clock=clock)),
    "six operations": lambda app, clock, folder: SixOperations(app, store=MemoryStore(clock=clock)),
    "four operations": lambda app, clock, folder: FourOperations(app, store=MemoryStore(clock=clock)),
}


@contextmanager
def opened(kind: str, app: HeldApp, clock: FakeClock, folder: Path) -> Iterator[HeldApp]:
    """The app with a backend of one of the `MAKERS`, whose store is sound at the end and closed then."""
    backend = app.backend = MAKERS[kind](app, clock, folder)
    try:
        yield app
        assert not isinstance(app.store, Checkable) or app.store.check() == []
    finally:
        backend.process_cleanup()
