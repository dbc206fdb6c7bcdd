"""What happens in a store, for people: what the command line and the page show. Reads any store."""

from lmdbresults.monitoring.changes import Changes
from lmdbresults.monitoring.following import follow
from lmdbresults.monitoring.monitor import Monitor
from lmdbresults.monitoring.values import (
    Bucket,
    Chord,
    FailureFigures,
    FileFigures,
    Filters,
    Group,
    Holder,
    Listing,
    NameFigures,
    Node,
    Overview,
    Payload,
    Queue,
    QueuedMessage,
    Runtime,
    Task,
    TaskRow,
    WorkerFigures,
)

__all__ = [
    "Bucket",
    "Changes",
    "Chord",
    "FailureFigures",
    "FileFigures",
    "Filters",
    "Group",
    "Holder",
    "Listing",
    "Monitor",
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
    "follow",
]
