"""What a peer must do, and what all of them store."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from benchmarks.servers import Unavailable

#: What every task returns.
RESULT = {"answer": 42, "text": "x" * 200}
KEY_PREFIX = b"celery-task-meta-"
#: Seconds for a result that is waited for.
PATIENCE = 30.0


class Peer(ABC):
    """A store that does the common work. Several processes may open it on one folder if it is ``shared``."""

    name: ClassVar[str]
    configuration: ClassVar[str]
    durability: ClassVar[str]
    loss: ClassVar[str] = ""
    """What a power failure may lose."""
    operations: ClassVar[int] = 200
    """Operations in a block; fewer for slow peers."""
    shared: ClassVar[bool] = True

    @classmethod  # noqa: B027 - most need nothing
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        """Start what the peer needs; the stack ends it. Raises `Unavailable`."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Open it in this process."""

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


def require(module: str) -> None:
    """Raise `Unavailable` if a module is not installed."""
    if find_spec(module) is None:
        raise Unavailable(f"not installed: pip install {module}")


def new_ids(count: int, rng: Random) -> list[str]:
    """Return new task ids."""
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def check(peer: Peer, rng: Random) -> None:
    """Raise an error if a peer does not return what was stored."""
    known, unknown = new_ids(2, rng)
    peer.store(peer.request(known))
    if not peer.holds(known) or peer.holds(unknown):
        raise RuntimeError(f"{peer.name} does not return what was stored")
    peer.forget(known)
    if peer.holds(known):
        raise RuntimeError(f"{peer.name} does not forget")


def stored(peer: Peer, count: int, rng: Random) -> list[str]:
    """Store new results and return their ids."""
    task_ids = new_ids(count, rng)
    if task_ids:
        peer.fill(task_ids)
    return task_ids
