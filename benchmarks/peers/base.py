"""What a peer has to do, and what all of them store."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from benchmarks.servers import Unavailable

RESULT = {"answer": 42, "text": "x" * 200}
"""What every task returns."""

KEY_PREFIX = b"celery-task-meta-"


class Peer(ABC):
    """A store under the common work. Any number of processes may open it on the same folder, if it is ``shared``."""

    name: ClassVar[str]
    configuration: ClassVar[str]
    durability: ClassVar[str]
    loss: ClassVar[str] = ""
    """What a power cut may take."""
    operations: ClassVar[int] = 200
    """In a block; fewer for the slow, lest they take all the time."""
    shared: ClassVar[bool] = True

    @classmethod  # noqa: B027 - most need nothing
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        """Start what has to run; how to end it goes on the stack. Raises `Unavailable`."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Open it in this process."""

    @abstractmethod
    def request(self, task_id: str) -> Any:
        """What a worker has in its hands when it comes to store; made before the clock starts."""

    def renamed(self, request: Any, task_id: str) -> Any:
        """The same request with another id, for loops in which making one would be most of the work."""
        return self.request(task_id)

    @abstractmethod
    def store(self, request: Any) -> object:
        """Store RESULT as the success of that request."""

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store results for these ids, in one transaction if there is such a thing."""
        for task_id in task_ids:
            self.store(self.request(task_id))

    @abstractmethod
    def get(self, task_id: str) -> Any:
        """Read a task's state and result, past every cache of the client; None, or PENDING, if there is none."""

    @abstractmethod
    def holds(self, task_id: str) -> bool:
        """Whether exactly RESULT comes back for this id."""

    @abstractmethod
    def forget(self, task_id: str) -> object:
        """Delete a result."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


def require(module: str, package: str = "") -> None:
    """Raises `Unavailable` if this cannot be imported."""
    if find_spec(module) is None:
        raise Unavailable(f"not installed: pip install {package or module}")


def new_ids(count: int, rng: Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def check(peer: Peer, rng: Random) -> None:
    """A peer that returned something else than what was stored would be fast for nothing."""
    known, unknown = new_ids(2, rng)
    peer.store(peer.request(known))
    if not peer.holds(known) or peer.holds(unknown):
        raise RuntimeError(f"{peer.name} does not return what was stored")
    peer.forget(known)
    if peer.holds(known):
        raise RuntimeError(f"{peer.name} does not forget")


def stored(peer: Peer, count: int, rng: Random) -> list[str]:
    """The ids of so many new results."""
    task_ids = new_ids(count, rng)
    if task_ids:
        peer.fill(task_ids)
    return task_ids
