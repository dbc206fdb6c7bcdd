"""What a peer is and must do, and what all of them store."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.rows import BOUNDED, DISK, KILL, OWN_ROW
from benchmarks.servers import Unavailable

#: What every task returns.
RESULT = {"answer": 42, "text": "x" * 200}
KEY_PREFIX = b"celery-task-meta-"
#: Seconds for a result that is waited for.
PATIENCE = 30.0


class Client(ABC):
    """A store, opened in one process, that does the common work."""

    about: "Peer"
    folder: Path

    @classmethod  # noqa: B027 - most need nothing
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        """Start what the peer needs; the stack ends it. Raises `Unavailable`."""

    @abstractmethod
    def request(self, task_id: str) -> Any:
        """Return what a worker passes to `store`; created before the clock starts."""

    def renamed(self, request: Any, task_id: str) -> Any:
        """Return the request with another id, for loops in which creating requests would be most of the work."""
        return self.request(task_id)

    @abstractmethod
    def store(self, request: Any) -> object:
        """Store RESULT as the success of a request."""

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store results for these ids, in one transaction if possible."""
        for task_id in task_ids:
            self.store(self.request(task_id))

    @abstractmethod
    def get(self, task_id: str) -> Any:
        """Read a task's state and result without the client's cache; None or PENDING if there is none."""

    @abstractmethod
    def holds(self, task_id: str) -> bool:
        """Return whether RESULT comes back for this id."""

    @abstractmethod
    def forget(self, task_id: str) -> object:
        """Delete a result."""

    def prepare_wait(self, task_id: str) -> None:  # noqa: B027 - most need nothing
        """Do what must be done before the result may be stored."""

    def wait(self, task_id: str) -> Any:
        """Return the decoded result once another process has stored it."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Close files and connections."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A store in one configuration."""

    name: str
    configuration: str
    durability: str
    """One of `benchmarks.rows.CLASSES`."""
    client: type[Any]
    """The class that opens it on a folder."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the class is given."""
    loss: str = ""
    """What a power failure may lose."""
    operations: int = 200
    """Operations in a block; fewer for slow peers."""

    def serve(self, folder: Path, stack: ExitStack) -> None:
        """Start what the peer needs on a new folder; the stack ends it. Raises `Unavailable`."""
        self.client.serve(folder, stack, **self.options)

    def open(self, folder: Path, **more: Any) -> Any:
        """Return a client in this process."""
        client = self.client(folder, **self.options, **more)
        client.about, client.folder = self, folder
        return client


def in_each_durability(configuration: str, client: type[Any]) -> tuple[Peer, Peer, Peer]:
    """Return the peers of lmdbresults: never synced, with checkpoints, and on disk at once."""

    def synced(option: str, durability: str, loss: str, operations: int = 200) -> Peer:
        text = f"{configuration}, durability={option}{' (the default)' if option == 'checkpoint' else ''}"
        options = {"durability": option}
        return Peer(
            name=OWN_ROW[durability], configuration=text, durability=durability, client=client, options=options,
            loss=loss, operations=operations,
        )  # fmt: skip

    return (
        synced("none", KILL, "the file"), synced("checkpoint", BOUNDED, "1 s, or 64 MiB"),
        synced("commit", DISK, "nothing", 20),
    )  # fmt: skip


def off_and_full(normal: Peer) -> tuple[Peer, Peer]:
    """Return peers of SQLite that never sync, and that sync each commit."""

    def synced(synchronous: str, **changes: Any) -> Peer:
        configuration = normal.configuration.replace("NORMAL", synchronous)
        options = {"synchronous": synchronous}
        return replace(
            normal, name=f"{normal.name}, {synchronous}", configuration=configuration, options=options, **changes
        )

    return synced("OFF", durability=KILL, loss="the file"), synced(
        "FULL", durability=DISK, loss="nothing", operations=20
    )


def require(module: str) -> None:
    """Raise `Unavailable` if a module is not installed."""
    if find_spec(module) is None:
        raise Unavailable(f"not installed: pip install {module}")


def new_ids(count: int, rng: Random) -> list[str]:
    """Return new task ids."""
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def check(client: Client, rng: Random) -> None:
    """Raise an error if a peer does not return what was stored."""
    known, unknown = new_ids(2, rng)
    client.store(client.request(known))
    if not client.holds(known) or client.holds(unknown):
        raise RuntimeError(f"{client.about.name} does not return what was stored")
    client.forget(known)
    if client.holds(known):
        raise RuntimeError(f"{client.about.name} does not forget")


def stored(client: Client, count: int, rng: Random) -> list[str]:
    """Store new results and return their ids."""
    task_ids = new_ids(count, rng)
    if task_ids:
        client.fill(task_ids)
    return task_ids
