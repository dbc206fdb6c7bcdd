"""The results of Celery's ``file://`` and ``db+sqlite://`` backends, to read. They are opened without Celery."""

import math
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Final
from urllib.parse import quote

from lmdbresults.copying.celery_metas import PICKLE, CeleryMetas, looks_pickled
from lmdbresults.copying.items import GROUP, PREFIXES, RESULT, Item
from lmdbresults.copying.sides import Source, batched
from lmdbresults.errors import FolderMissing, NewerFormat, NotAFile, SerializationError, StoreError
from lmdbresults.serialization import serializers

__all__ = ["CeleryFolder", "CelerySqlite"]


class CeleryFolder(Source):
    """The folder of ``file://``: a file for each result. Its age says when it expires, ``expires`` seconds later."""

    def __init__(self, path: str, metas: CeleryMetas, expires: float | None) -> None:
        super().__init__()
        if not os.path.isdir(path):
            raise FolderMissing(f"{path} is not a folder. Check the spelling of the URL.")
        self._path, self._metas, self._expires = os.fsencode(path), metas, expires

    def estimate(self) -> int | None:
        return None

    def batches(self, size: int) -> Iterator[list[Item]]:
        with os.scandir(self._path) as entries:
            for batch in batched(entries, size):
                yield [item for item in map(self._item, batch) if item is not None]

    def close(self) -> None:
        """Nothing is open between two batches."""

    def _item(self, entry: os.DirEntry[bytes]) -> Item | None:
        for kind in (RESULT, GROUP):
            if entry.name.startswith(PREFIXES[kind]):
                break
        else:
            return None
        id_ = entry.name[len(PREFIXES[kind]) :]
        try:
            with open(entry.path, "rb") as file:
                document, changed = file.read(), os.fstat(file.fileno()).st_mtime
            value = self._metas.record(document) if kind == RESULT else self._metas.group(document)
        except FileNotFoundError:  # forgotten meanwhile
            return None
        except (OSError, SerializationError, NewerFormat) as error:
            self.problems.append(f"{kind} {os.fsdecode(id_)}: {error}")
            return None
        deadline = _deadline(changed, self._expires)
        return Item(kind, id_, value, deadline) if deadline > time.time() else None


#: Columns that a table may lack, as tables of older versions of Celery do, and those without `result_extended`.
_OPTIONAL: Final = ("children", "name", "args", "kwargs", "worker", "retries", "queue", "stamps")


class CelerySqlite(Source):
    """The SQLite database of ``db+sqlite://``: results expire ``expires`` seconds after they were stored.

    ``serializer`` is the ``result_serializer`` of the workers: the database does not say it.
    """

    def __init__(self, path: str, metas: CeleryMetas, expires: float | None, serializer: str = "json") -> None:
        super().__init__()
        if not os.path.isfile(path):
            raise NotAFile(f"{path} is not a file. Check the spelling of the URL: db+sqlite:////absolute/path.")
        self._path, self._metas, self._expires = path, metas, expires
        self._type = serializers()[serializer].content_type
        self._connection = sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)
        self._connection.row_factory = sqlite3.Row
        try:
            if not self._columns("celery_taskmeta"):
                raise StoreError(f"{path} has no table celery_taskmeta: Celery has stored no result in it.")
        except BaseException:
            self.close()
            raise

    def _query(self, query: str, *values: int) -> list[sqlite3.Row]:
        """Return all rows of a query. Raises `StoreError`."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path} cannot be read: {error}. Repeat the copy, or check the database."
            ) from error

    def _columns(self, table: str) -> set[str]:
        return {row["name"] for row in self._query(f"PRAGMA table_info({table})")}

    def estimate(self) -> int | None:
        [(count,)] = self._query("SELECT count(*) FROM celery_taskmeta")
        return int(count)

    def batches(self, size: int) -> Iterator[list[Item]]:
        wanted = ["id", "task_id", "status", "result", "date_done", "traceback"]
        columns = ", ".join([*wanted, *(name for name in _OPTIONAL if name in self._columns("celery_taskmeta"))])
        for rows in self._pages("celery_taskmeta", columns, size):
            yield [item for item in map(self._result, rows) if item is not None]
        if self._columns("celery_tasksetmeta"):
            for rows in self._pages("celery_tasksetmeta", "id, taskset_id, result, date_done", size):
                yield [item for item in map(self._group, rows) if item is not None]

    def _pages(self, table: str, columns: str, size: int) -> Iterator[list[sqlite3.Row]]:
        """Yield the rows of a table in short queries, so that its writers need not wait."""
        last = -1
        query = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - names of ours
        while rows := self._query(query, last, size):
            yield rows
            last = rows[-1]["id"]

    def _result(self, row: sqlite3.Row) -> Item | None:
        deadline = self._deadline_of(row)
        if deadline <= time.time():
            return None
        try:
            return Item(RESULT, row["task_id"].encode(), self._metas.of_columns(dict(row), self._type), deadline)
        except (SerializationError, NewerFormat) as error:
            self.problems.append(f"{RESULT} {row['task_id']}: {error}")
            return None

    def _group(self, row: sqlite3.Row) -> Item | None:
        deadline = self._deadline_of(row)
        if deadline <= time.time() or row["result"] is None:
            return None
        tree = row["result"]
        try:
            value = self._metas.group_of_column(tree, PICKLE if looks_pickled(tree) else self._type)
        except SerializationError as error:
            self.problems.append(f"{GROUP} {row['taskset_id']}: {error}")
            return None
        return Item(GROUP, row["taskset_id"].encode(), value, deadline)

    def _deadline_of(self, row: sqlite3.Row) -> float:
        if row["date_done"] is None:
            return _deadline(time.time(), self._expires)
        date = datetime.fromisoformat(row["date_done"])
        return _deadline(date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp(), self._expires)

    def close(self) -> None:
        self._connection.close()


def _deadline(stored: float, expires: float | None) -> float:
    return math.inf if not expires else stored + expires
