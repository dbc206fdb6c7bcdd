"""``lmdbresults import``"""

import base64
import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, TextIO

import click

from lmdbresults.cli import options
from lmdbresults.cli.export import FIELDS
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import say, say_json
from lmdbresults.errors import DecodeError
from lmdbresults.monitoring import Monitor
from lmdbresults.record import RECORD_VERSION, SUCCESS_PREFIX, Payload, TaskRecord
from lmdbresults.store.base import WriteTransaction

__all__ = ["import_"]

#: Results stored in one transaction.
_BATCH: Final = 200
_NUMBERS: Final = ("retries",)
_JSON: Final = ("children",)


@click.command("import")
@options.path
@click.argument("file", metavar="[RESULTS]", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--format", "form", type=click.Choice(["ndjson", "json", "csv"]), default="ndjson", show_default=True)
@options.as_json
def import_(path: Any, file: TextIO, form: str, as_json: bool) -> None:
    """Store results that were exported.

    They come from RESULTS, or the standard input, as `export` writes them without --decode.
    Those that have expired since are left out, and a result that has succeeded is not replaced; so it can be repeated.
    """
    stored = expired = kept = 0
    with monitored(path) as monitor:
        results = _results(file, form)
        while batch := list(islice(results, _BATCH)):
            counts = monitor.store.update(partial(_store, monitor, batch))
            stored, expired, kept = stored + counts[0], expired + counts[1], kept + counts[2]
    if as_json:
        say_json({"stored": stored, "expired": expired, "kept": kept})
    else:
        say(f"Stored: {stored}. Expired since: {expired}. Kept, because they have succeeded: {kept}.")


class _Result(NamedTuple):
    """A result to store."""

    id: str
    record: bytes
    deadline: float | None
    """In seconds since the epoch; None: it never expires."""


def _store(monitor: Monitor, results: Iterable[_Result], txn: WriteTransaction) -> tuple[int, int, int]:
    """Store results; return how many were stored, have expired, and were kept."""
    stored = expired = kept = 0
    for id_, record, deadline in results:
        ttl = None if deadline is None else deadline - txn.now()
        if ttl is not None and ttl <= 0:
            expired += 1
        elif txn.set(monitor.task_key(id_), record, ttl, keep_prefix=SUCCESS_PREFIX):
            stored += 1
        else:
            kept += 1
    return stored, expired, kept


def _result(row: dict[str, Any]) -> _Result:
    """Return what a row says. Raises ValueError or TypeError if `export` has not written it."""
    expires = row["expires"]
    return _Result(row["id"], _record(row), None if expires is None else datetime.fromisoformat(expires).timestamp())


def _record(row: dict[str, Any]) -> bytes:
    payload = Payload(
        row["content_type"],
        row["content_encoding"],
        row["compression"],
        _bytes(row["body"]) or b"",
        _bytes(row["extra"]),
    )
    names = TaskRecord._fields[1:-1]
    return TaskRecord._make((RECORD_VERSION, *(row[name] for name in names), payload)).pack()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _results(file: TextIO, form: str) -> Iterator[_Result]:
    """Yield the results in a file. Raises `DecodeError` for the first one that `export` has not written."""
    number = 0
    try:
        for row in _READERS[form](file):
            number += 1
            if not isinstance(row, dict) or row.keys() != set(FIELDS) or not isinstance(row["id"], str):
                raise ValueError("it does not have the fields that `export` writes without --decode")
            yield _result(row)
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise DecodeError(f"Result {number} of the input cannot be read: {error}. Is --format right?") from error


def _read_ndjson(file: TextIO) -> Iterator[Any]:
    return (json.loads(line) for line in file if line.strip())


def _read_json(file: TextIO) -> Iterator[Any]:
    """Yield the items of a list that has one on each line, as `export` writes it; of any other all at once."""
    first = file.readline()
    if first.strip() != "[":
        yield from json.loads(first + file.read())
        return
    for line in file:
        if line.strip() == "]":
            return
        yield json.loads(line.rstrip().rstrip(","))


def _read_csv(file: TextIO) -> Iterator[Any]:
    csv.field_size_limit(1 << 30)
    for row in csv.DictReader(file):
        yield {name: _from_cell(name, text) for name, text in row.items()}


def _from_cell(name: str, text: str | None) -> Any:
    if not text:
        return "" if name in ("id", "body") else None
    text = text[1:] if text.startswith("'") else text
    if name in _NUMBERS:
        with suppress(ValueError):
            return int(text)
    return json.loads(text) if name in _JSON else text


_READERS: Final = {"ndjson": _read_ndjson, "json": _read_json, "csv": _read_csv}
