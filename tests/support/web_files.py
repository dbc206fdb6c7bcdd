"""Files to be shown: ordinary results, and results in which every text is hostile."""

import json
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from lmdbresults.record import RECORD_VERSION, Payload, TaskRecord
from lmdbresults.store.base import Store

__all__ = ["HOSTILE", "TRACEBACK", "put_task"]

#: Runs, breaks out of an attribute or an element, changes the direction of text, or ends a document, if not escaped.
HOSTILE: Final = (
    "\"'><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e\x1b[2J\x00{{7*7}}"
)
TRACEBACK: Final = """\
Traceback (most recent call last):
  File "tasks.py", line 3, in charge
    raise CardDeclined(card)
shop.CardDeclined: no funds
"""


class Exploit:
    """Makes a file if it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def put_task(
    store: Store,
    id_: str,
    state: str = "SUCCESS",
    *,
    ago: float = 10.0,
    result: Any = None,
    arguments: Any = None,
    pickled: object = None,
    **fields: Any,
) -> None:
    """Store the result of a task, as Celery's backend does."""
    ended = (
        (datetime.now(timezone.utc) - timedelta(seconds=ago)).isoformat() if state in ("SUCCESS", "FAILURE") else None
    )
    extra = None if arguments is None else json.dumps(arguments).encode()
    payload = Payload("application/json", "utf-8", None, json.dumps(result).encode(), extra)
    if pickled is not None:
        payload = Payload("application/x-python-serialize", "binary", None, pickle.dumps(pickled), None)
    known = {"name": None, "worker": None, "queue": None, "retries": 0, "group_id": None, "parent_id": None}
    known.update({"children": [], "traceback": None}, **fields)
    record = TaskRecord(RECORD_VERSION, state, ended, *(known[name] for name in TaskRecord._fields[3:-1]), payload)
    store.set(b"celery-task-meta-" + id_.encode(), record.pack(), 3600.0, interim=ended is None)
