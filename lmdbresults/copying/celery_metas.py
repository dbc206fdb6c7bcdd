"""Results in the form of Celery's own backends: one document of one serializer, its type not named.

JSON and msgpack documents are taken apart and put together by their text, so that no value changes. Pickled ones must
be decoded, which runs code: only where pickle is accepted.
"""

import json
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple

import msgpack

from lmdbresults import serialization
from lmdbresults.errors import DecodeError
from lmdbresults.record import Payload, TaskRecord, pack_payload, read_meta, unpack_payload

__all__ = ["JSON", "MSGPACK", "PICKLE", "YAML", "CeleryMetas", "looks_pickled"]

JSON, MSGPACK, PICKLE, YAML = (
    "application/json",
    "application/x-msgpack",
    "application/x-python-serialize",
    "application/x-yaml",
)
#: Before a compressed document, since Celery 5.7; then the type of the compression and a zero byte.
_COMPRESSED: Final = b"\x00celery-compressed\x00"
#: What Celery adds to a meta for `result_extended`, and what a record has fields for.
_CALL: Final = ("name", "worker", "retries", "queue")


class CeleryMetas:
    """Converts between task records and the documents of Celery's backends.

    ``accept`` names the serializers whose values may be decoded. ``serializer``: write all documents by this one, as a
    stock backend reads no other than its own; None: each by that of its result.
    """

    def __init__(self, accept: Collection[str] = serialization.DEFAULT_ACCEPT, serializer: str | None = None) -> None:
        self._accept = accept
        self._type = None if serializer is None else serialization.serializers()[serializer].content_type
        self._names = {each.content_type: name for name, each in serialization.serializers().items()}

    # -- to Celery's form --------------------------------------------------------------------------------------------

    def document(self, task_id: str, value: bytes) -> bytes:
        """Return the document of a packed task record. Raises `ContentDisallowed` for a pickle that is not accepted."""
        record = TaskRecord.unpack(value)
        payload = self._plain(record.payload)
        type_ = self._type or payload.content_type
        spliced = _SPLICED.get(payload.content_type) if type_ == payload.content_type else None
        if spliced is not None:
            extra = None if payload.extra is None else spliced.load(payload.extra)
            meta = _meta(record, None, extra, task_id)
            encoded = {name: payload.body if name == "result" else spliced.dump(meta[name]) for name in meta}
            return spliced.join(encoded)
        extra = None if payload.extra is None else self._decoded(payload, payload.extra)
        return self._encoded(_meta(record, self._decoded(payload, payload.body), extra, task_id), type_)

    def group_document(self, value: bytes) -> bytes:
        """Return the document of a saved group, whose payload it is."""
        payload = self._plain(unpack_payload(value))
        if self._type in (None, payload.content_type):
            return payload.body
        return self._encoded(self._decoded(payload, payload.body), self._type)

    # -- from Celery's form ------------------------------------------------------------------------------------------

    def record(self, document: bytes) -> bytes:
        """Return the packed task record of a document. Raises `ContentDisallowed` or `DecodeError`."""
        content_type, body = self._opened(document)
        load, dump = self._coder(content_type)
        meta = load(body)
        if not isinstance(meta, Mapping) or "status" not in meta or "result" not in meta:
            raise DecodeError("The document is not the meta of a task: it has no status or no result.")

        def encode(result: Any, rest: Mapping[str, Any] | None) -> Payload:
            return _payload(content_type, dump(result), None if rest is None else dump(rest))

        return TaskRecord.from_meta({name: meta[name] for name in meta if name != "task_id"}, encode).pack()

    def group(self, document: bytes) -> bytes:
        """Return a saved group in our form."""
        content_type, body = self._opened(document)
        return pack_payload(_payload(content_type, body))

    # -- from Celery's database, whose columns are encoded one by one --------------------------------------------------

    def of_columns(self, row: Mapping[str, Any], content_type: str) -> bytes:
        """Return the packed task record of a row. Results stay as they are encoded; Celery pickled all of them once."""
        body, date = row["result"], row["date_done"]
        if body is not None and looks_pickled(body):
            content_type = PICKLE
        load, dump = self._coder(content_type)
        meta = {
            "status": row["status"],
            "result": None,
            "traceback": row["traceback"],
            "children": None if row.get("children") is None else load(row["children"]),
            "date_done": date and datetime.fromisoformat(date).replace(tzinfo=timezone.utc).isoformat(),
        }
        extra = None
        if row.get("kwargs") is not None:
            meta.update({name: row[name] for name in _CALL})
            stamps = load(row["stamps"]) if row.get("stamps") is not None else {}
            headers = {"stamped_headers": stamps["stamped_headers"], **stamps["stamps"]} if stamps else {}
            extra = dump({"args": load(row["args"]), "kwargs": load(row["kwargs"]), **headers})
        payload = _payload(content_type, dump(None) if body is None else body, extra)
        return TaskRecord.from_meta(meta, lambda *_: payload).pack()

    def group_of_column(self, tree: bytes, content_type: str) -> bytes:
        """Return a saved group in our form. ``tree`` is its encoded tuple tree, which the others keep in a mapping."""
        load, dump = self._coder(content_type)
        return pack_payload(_payload(content_type, dump({"result": load(tree)})))

    # -- both --------------------------------------------------------------------------------------------------------

    def _coder(self, content_type: str) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
        if content_type in _SPLICED:
            return _SPLICED[content_type].load, _SPLICED[content_type].dump
        return (
            lambda body: self._decoded(_payload(content_type, body), body),
            lambda value: self._encoded(value, content_type),
        )

    def _opened(self, document: bytes) -> tuple[str, bytes]:
        if document.startswith(_COMPRESSED):
            compression, _, body = document[len(_COMPRESSED) :].partition(b"\x00")
            document = serialization.decompress(body, compression.decode())
        return _content_type(document), document

    def _plain(self, payload: Payload) -> Payload:
        """Return a payload without its compression."""
        if payload.compression is None:
            return payload
        body = serialization.decompress(payload.body, payload.compression)
        extra = payload.extra and serialization.decompress(payload.extra, payload.compression)
        return payload._replace(compression=None, body=body, extra=extra)

    def _decoded(self, payload: Payload, body: bytes) -> Any:
        return serialization.loads(payload._replace(body=body), self._accept)

    def _encoded(self, value: Any, content_type: str) -> bytes:
        if content_type not in self._names:
            raise DecodeError(f"No serializer for {content_type} is installed here.")
        return serialization.dumps(value, self._names[content_type]).body


def _meta(record: TaskRecord, result: Any, extra: Mapping[str, Any] | None, task_id: str) -> dict[str, Any]:
    """Return Celery's meta of a record, in Celery's order."""
    plain = read_meta(record._replace(payload=record.payload._replace(extra=None)).pack(), lambda _: result)
    assert plain is not None, "any state is wanted"
    if extra is not None:
        plain.update({name: getattr(record, name) for name in _CALL})
        plain.update(extra)
    return {**plain, "task_id": task_id}


def _payload(content_type: str, body: bytes, extra: bytes | None = None) -> Payload:
    return Payload(content_type, "utf-8" if content_type in (JSON, YAML) else "binary", None, body, extra)


def _content_type(document: bytes) -> str:
    """Return the type of a document that is a mapping, by how it begins."""
    if document[:1] == b"{":
        return JSON
    if looks_pickled(document):
        return PICKLE
    first = document[0] if document else 0
    return MSGPACK if first & 0xF0 == 0x80 or first in (0xDE, 0xDF) else YAML


def looks_pickled(data: bytes) -> bool:
    """Return whether bytes begin and end like a pickle of protocol 2 or newer."""
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data[-1:] == b"."


def _splice_json(fields: Mapping[str, bytes]) -> bytes:
    return b"{" + b", ".join(b"%b: %b" % (_dump_json(name), text) for name, text in fields.items()) + b"}"


def _dump_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _splice_msgpack(fields: Mapping[str, bytes]) -> bytes:
    head: bytes = msgpack.Packer().pack_map_header(len(fields))
    return head + b"".join(_dump_msgpack(name) + value for name, value in fields.items())


def _dump_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _load_msgpack(body: bytes) -> Any:
    return msgpack.unpackb(body, strict_map_key=False)


class _Spliced(NamedTuple):
    """A serializer whose documents can be put together from encoded values."""

    join: Callable[[Mapping[str, bytes]], bytes]
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]


_SPLICED: Final = {
    JSON: _Spliced(_splice_json, _dump_json, json.loads),
    MSGPACK: _Spliced(_splice_msgpack, _dump_msgpack, _load_msgpack),
}
