"""``lmdbresults export``"""

import base64
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TextIO

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import jsonable, progress
from lmdbresults.errors import ContentDisallowed, DecodeError, RecordDamaged
from lmdbresults.monitoring import Filters, Monitor
from lmdbresults.monitoring.tasks import payload_of
from lmdbresults.record import TaskRecord
from lmdbresults.serialization import DEFAULT_ACCEPT
from lmdbresults.store.base import Measurable

__all__ = ["FIELDS", "export"]

#: What is exported of each task: a record, with the bytes of its payload in base64.
FIELDS: Final = (
    "id", "state", "date_done", "name", "worker", "queue", "retries", "group_id", "parent_id", "expires",
    "children", "traceback", "content_type", "content_encoding", "compression", "body", "extra",
)  # fmt: skip
#: Instead of the last two with --decode.
_DECODED: Final = ("result", "arguments", "not_decoded")
_REPORT_EVERY: Final = 500


@click.command()
@options.path
@click.argument("file", metavar="[RESULTS]", type=click.File("w", encoding="utf-8", lazy=False), default="-")
@click.option("--format", "form", type=click.Choice(["ndjson", "json", "csv"]), default="ndjson", show_default=True)
@click.option("--decode", is_flag=True, help="Decode results for other programs. `import` does not read this.")
@click.option("--accept", default=",".join(DEFAULT_ACCEPT), show_default=True, help="Serializers that --decode reads.")
@options.filters
def export(path: Any, file: TextIO, form: str, decode: bool, accept: str, **chosen: Any) -> None:
    """Write results to a file.

    To RESULTS, or the standard output, in no order: one object on each line, a JSON list, or CSV.
    Results are not decoded, unless with --decode: `import` stores them again with the same bytes and deadlines.
    """
    filters = options.filters_from(chosen)
    accepted = accept.split(",") if decode else None
    with monitored(path) as monitor, progress("exporting") as report:
        _WRITERS[form](file, _rows(monitor, filters, accepted, report), (*FIELDS[:-2], *_DECODED) if decode else FIELDS)


def _rows(
    monitor: Monitor, filters: Filters, accept: list[str] | None, report: Callable[[int, int], object] | None
) -> Iterator[dict[str, Any]]:
    stats = monitor.store.stats() if report is not None and isinstance(monitor.store, Measurable) else None
    total = getattr(stats, "records", 0)  # a server does not know it
    for number, row in enumerate(monitor.matching(filters)):
        if report is not None and number % _REPORT_EVERY == 0:
            report(number, max(total, number))
        try:
            task, record = monitor.task(row.id), monitor.record(row.id)
        except (DecodeError, RecordDamaged) as error:
            click.echo(f"left out: {error}", err=True)
            continue
        if task is not None and record is not None:  # it was not deleted meanwhile
            yield _exported(row.id, task.expires, record, accept)


def _exported(id_: str, expires: Any, record: TaskRecord, accept: list[str] | None) -> dict[str, Any]:
    fields = record._asdict()
    payload = record.payload
    del fields["version"], fields["payload"]
    found = {"id": id_, **fields, "expires": None if expires is None else expires.isoformat()}
    found.update(zip(("content_type", "content_encoding", "compression"), payload[:3], strict=True))
    if accept is None:
        return {**found, "body": _base64(payload.body), "extra": _base64(payload.extra)}
    try:
        result, arguments = payload_of(record, accept)
    except (ContentDisallowed, DecodeError) as error:
        return {**found, "result": None, "arguments": None, "not_decoded": str(error)}
    return {**found, "result": jsonable(result), "arguments": jsonable(arguments), "not_decoded": None}


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


# -- formats -----------------------------------------------------------------------------------------------------------


def _write_ndjson(file: TextIO, rows: Iterable[dict[str, Any]], names: tuple[str, ...]) -> None:
    for row in rows:
        file.write(json.dumps(row) + "\n")


def _write_json(file: TextIO, rows: Iterable[dict[str, Any]], names: tuple[str, ...]) -> None:
    before = "[\n"
    for row in rows:
        file.write(before + json.dumps(row))
        before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


def _write_csv(file: TextIO, rows: Iterable[dict[str, Any]], names: tuple[str, ...]) -> None:
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row[name]) for name in names})


def _cell(value: Any) -> Any:
    """Return a value as a cell, in which None is nothing. A text is not read as a formula by a spreadsheet."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text


_WRITERS: Final = {"ndjson": _write_ndjson, "json": _write_json, "csv": _write_csv}
