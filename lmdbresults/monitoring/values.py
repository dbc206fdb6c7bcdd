"""What a monitor returns. Times are in UTC, durations in seconds. Texts are as stored, so they may be hostile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = [
    "Bucket",
    "Chord",
    "FailureFigures",
    "FileFigures",
    "Filters",
    "Group",
    "Holder",
    "Listing",
    "NameFigures",
    "Node",
    "Overview",
    "Payload",
    "Queue",
    "QueuedMessage",
    "Runtime",
    "Task",
    "TaskRow",
    "WorkerFigures",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which tasks are wanted. What is left out matches every task."""

    states: frozenset[str] = frozenset()
    """One of these states; empty: any."""
    name: str | None = None
    """Exactly this name. Name, worker and queue are stored only with ``result_extended``."""
    worker: str | None = None
    queue: str | None = None
    since: datetime | None = None
    """Ended then or later, or has not ended."""
    until: datetime | None = None
    """Ended before."""
    group: str | None = None
    """Id of the group to which the task belongs."""
    text: str | None = None
    """Occurs in the name or the id, in upper or lower case."""


class TaskRow(NamedTuple):
    """What a list shows of a task."""

    id: str
    state: str
    ended: datetime | None
    """None if it has not ended, or the time is not known."""
    runtime: float | None
    """Seconds from the start of its last run to its end; None if the worker has not stored them."""
    name: str | None
    worker: str | None
    queue: str | None
    retries: int | None
    group_id: str | None
    parent_id: str | None


class Listing(NamedTuple):
    """A page of tasks."""

    rows: list[TaskRow]
    next: str | None
    """Leads to the next page, as ``after``; None: this is the last one."""
    damaged: int = 0
    """How many records could not be read, and are left out. `Store.check` lists them."""


class Task(NamedTuple):
    """All that is known of one task without decoding its result."""

    row: TaskRow
    expires: datetime | None
    """When the result will be deleted; None: never."""
    traceback: str | None
    exception: str | None
    """The class of the exception, as the traceback names it."""
    children: list[str]
    """Ids of the tasks and groups that it has sent."""
    content_type: str
    compression: str | None
    size: int
    """Bytes of the encoded result."""
    has_arguments: bool


class Payload(NamedTuple):
    """The decoded values of a task."""

    result: Any
    arguments: Mapping[str, Any]
    """``args``, ``kwargs`` and what else was stored beside the result; empty without ``result_extended``."""


class Chord(NamedTuple):
    """A chord."""

    id: str
    """Id of its header's group."""
    state: str
    """open; claimed, once a process runs its body; or ended."""
    size: int | None
    """How many parts it waits for; None: not known yet."""
    returned: int
    failed: int
    """Returned parts that have failed."""
    missing: list[int] | None
    """Places in the header whose part has not returned; None: not known."""
    returned_ids: list[str]
    opened: datetime | None
    last: datetime | None
    """When the last part ended."""
    expires: datetime | None
    owner_pid: int | None
    """The process that runs the body; None if the chord is not claimed."""
    owner_alive: bool | None


class Group(NamedTuple):
    """The tasks that share a group id."""

    id: str
    size: int | None
    """How many tasks it has; None: not known."""
    states: Mapping[str, int]
    """How many of them have a result, by state."""
    last: datetime | None
    """When the last of them ended."""
    is_saved: bool
    chord: Chord | None
    """Set if the group is the header of a chord."""


Kind: TypeAlias = Literal["task", "group", "chord"]


class Node(NamedTuple):
    """A task, group or chord in the tree of its canvas."""

    kind: Kind
    id: str
    state: str | None
    """Of a task: None if nothing is stored of it. Of a chord: open, claimed or ended."""
    name: str | None = None
    ended: datetime | None = None
    runtime: float | None = None
    children: "tuple[Node, ...]" = ()
    size: int | None = None
    """Of a group or chord: how many tasks it has."""
    done: int = 0
    """Of a group or chord: how many tasks have ended."""
    missing: int | None = None
    """Of a group or chord: how many have not."""
    is_asked: bool = False
    """Whether this is what was asked for."""
    is_cut: bool = False
    """Whether it has children that are left out."""


class Holder(NamedTuple):
    """A process that has taken messages."""

    pid: int
    description: str
    is_alive: bool
    messages: int


class Queue(NamedTuple):
    """A queue of the broker."""

    name: str
    ready: int
    unacknowledged: int
    delayed: int
    size: int
    """Bytes of the bodies of ready messages."""
    oldest: float | None
    """Seconds for which its next message has waited; None if no message is ready."""
    holders: list[Holder]


class QueuedMessage(NamedTuple):
    """A message in a queue."""

    tag: str
    state: str
    """ready, delayed or unacknowledged."""
    task_id: str | None
    """None if the message is not of a task."""
    task: str | None
    priority: int | None
    """None if it is unacknowledged."""
    published: datetime
    due: datetime | None
    holder: Holder | None
    size: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """A distribution of run times, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class NameFigures:
    """The tasks of one name."""

    name: str | None
    count: int
    failures: int
    runtime: Runtime | None


@dataclass(frozen=True, slots=True)
class FailureFigures:
    """The failures of one name by one exception."""

    name: str | None
    exception: str
    count: int
    last: datetime


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """The tasks of one worker."""

    name: str
    count: int
    failures: int
    last: datetime
    """When it has ended a task last."""


class Bucket(NamedTuple):
    """The tasks that ended in a span of time."""

    start: datetime
    states: Mapping[str, int]


class FileFigures(NamedTuple):
    """The data file of a store."""

    path: str
    file_size: int
    """Bytes that it takes on disk."""
    live_size: int
    """Bytes in use."""
    free_size: int
    """Bytes that are free for reuse, or allocated ahead."""
    max_size: int
    records: int
    readers: int
    oldest_reader: str | None
    """The reader that keeps the most pages from reuse."""
    checkpoint_age: float | None
    """Seconds since the last checkpoint; None if none is needed, or none is known."""
    waiters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Figures about everything in a store."""

    at: datetime
    total: int
    """Tasks that have not expired."""
    states: Mapping[str, int]
    hour: list[Bucket]
    """The last 60 minutes, the oldest first."""
    day: list[Bucket]
    """The last 96 quarters of an hour, the oldest first."""
    names: list[NameFigures]
    """The most frequent names first."""
    failures: list[FailureFigures]
    """The most frequent ones first."""
    slowest: list[TaskRow]
    workers: list[WorkerFigures]
    """The one that was seen last first."""
    queues: list[Queue] = field(default_factory=list)
    chords: int = 0
    """Chords in flight."""
    file: FileFigures | None = None
    """None if the store is not a file."""
