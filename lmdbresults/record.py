"""The task record: a small versioned msgpack array around a payload in the serializer of the user's choice.

State and times are read without touching the payload, so a tool that lists results never decodes (or unpickles) them.
Golden bytes of every version are in ``tests/golden``.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgpack

from lmdbresults.errors import DecodeError, EncodeError, NewerFormat
from lmdbresults.states import EXCEPTION_STATES, SUCCESS

__all__ = [
    "RECORD_VERSION",
    "RUNTIME",
    "SUCCESS_PREFIX",
    "Payload",
    "TaskHead",
    "TaskRecord",
    "new_payload",
    "pack_fields",
    "pack_payload",
    "read_meta",
    "runtime_in",
    "unpack_payload",
]

RECORD_VERSION: Final = 1
#: The name of the last of the extra values: the seconds that the task took. It is for lists, and not part of a meta.
RUNTIME: Final = "runtime"


class Payload(NamedTuple):
    """Encoded values, and how to decode them, however the reader is configured."""

    content_type: str
    """MIME type of the serializer, such as ``application/json``."""
    content_encoding: str
    """``utf-8`` for text serializers, ``binary`` for the others."""
    compression: str | None
    """MIME type of the compression of both bodies, or None."""
    body: bytes
    """The result."""
    extra: bytes | None = None
    """A mapping of other values in the user's serializer (arguments, stamps), or None."""


#: Makes a payload of a sequence of its fields, in half the time of `Payload`.
new_payload: Final[Callable[[Iterable[Any]], Payload]] = partial(tuple.__new__, Payload)


class TaskRecord(NamedTuple):
    """All that is stored of one task. The order of the fields is the order on disk; the state comes early."""

    version: int
    state: str
    date_done: str | None
    """ISO 8601, as the backend wrote it; None until the state is ready."""
    name: str | None
    worker: str | None
    queue: str | None
    retries: int | None
    group_id: str | None
    parent_id: str | None
    children: list[Any] | None
    """Results of the tasks that this one sent, as tuple trees; None outside a task."""
    traceback: str | None
    payload: Payload

    def pack(self) -> bytes:
        """Return the bytes of the record. Raises `EncodeError` if a number exceeds 64 bits."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> "TaskRecord":
        """Return the record in ``data``.

        Raises `DecodeError` if the bytes are not a record, `NewerFormat` if a newer lmdbresults wrote them.
        """
        fields = _fields(data)
        fields[-1] = new_payload(fields[-1])
        return _new_tuple(cls, fields)

    @staticmethod
    def is_one(data: bytes) -> bool:
        """Return whether bytes are a record of this version rather than those of `pack_payload`, by how they begin."""
        return data.startswith(_BEGINNING)

    @classmethod
    def from_meta(
        cls, meta: Mapping[str, Any], encode: Callable[[Any, Mapping[str, Any] | None], Payload]
    ) -> "TaskRecord":
        """Return the record of a meta. ``encode(result, rest)`` returns the payload.

        The rest is a mapping of the values for which the record has no field, or None.
        """
        others = meta.keys() - _META_FIELDS
        rest = {name: meta[name] for name in meta if name in others} if others else None
        payload = encode(meta["result"], rest)
        return cls._make((RECORD_VERSION, meta["status"], *map(meta.get, _OPTIONAL_FIELDS), payload))


def read_meta(
    data: bytes | None,
    decode: Callable[[Sequence[Any]], Any],
    revive: Callable[[Any], Any] | None = None,
    task_id: str | None = None,
    wanted: frozenset[str] | None = None,
) -> dict[str, Any] | None:
    """Return the meta in the bytes of a record: what `TaskRecord.from_meta` was given.

    Return None, and decode nothing, if there is no record (None), or its state is not ``wanted`` (None: any is).
    ``decode(payload)`` returns the value in the body of a payload, a sequence of the fields of `Payload`, and
    ``revive(stored)`` an exception for the result of a failure. The record does not hold ``task_id``, which its key
    does. A caller that keeps no reference to the bytes lets their memory be used again. Raises as `TaskRecord.unpack`.
    """
    if data is None:
        return None
    fields = _fields(data)
    del data  # of a large result there are three copies by now; with more, the system gives and takes memory each time
    _, state, done, name, worker, queue, retries, group_id, parent_id, children, traceback, payload = fields
    if wanted is not None and state not in wanted:
        return None
    result = decode(payload)
    meta = {"status": state, "result": result, "traceback": traceback, "children": children, "date_done": done}
    if group_id is not None:
        meta["group_id"] = group_id
    if parent_id is not None:
        meta["parent_id"] = parent_id
    if payload[4] is not None:  # the extended form of a meta
        meta.update(name=name, worker=worker, queue=queue, retries=retries)
        meta.update(decode((*payload[:3], payload[4], None)))
        meta.pop(RUNTIME, None)
    if revive is not None and state in EXCEPTION_STATES:
        meta["result"] = revive(result)
    if task_id is not None:
        meta["task_id"] = task_id
    return meta


class TaskHead(NamedTuple):
    """The fields at the beginning of a task record, which are read without the rest; for lists of results."""

    state: str
    date_done: str | None
    name: str | None
    worker: str | None
    queue: str | None
    retries: int | None
    group_id: str | None
    parent_id: str | None

    @classmethod
    def read(cls, data: bytes) -> "TaskHead | None":
        """Return the head of the record that begins with ``data``; None if these bytes do not tell: read all then."""
        if not data.startswith(_BEGINNING):
            return None
        unpacker = msgpack.Unpacker()
        unpacker.feed(data[len(_BEGINNING) :])
        try:
            return cls._make(unpacker.unpack() for _ in cls._fields)
        except (ValueError, msgpack.UnpackException):  # cut off, not UTF-8, or not a record
            return None


def runtime_in(data: bytes) -> float | None:
    """Return the seconds that a task took, by the end of its record, which is not decoded; None if they are not there.

    The extra values end a record. In JSON, and in msgpack, the bytes of the last one show that it is one.
    """
    start = data.rfind(_RUNTIME, -_RUNTIME_BYTES)
    if start < 0:
        return None
    value = data[start + len(_RUNTIME) :]
    try:
        runtime = _DOUBLE.unpack_from(value, 1)[0] if len(value) == 1 + _DOUBLE.size else float(value[2:-1])
    except (ValueError, struct.error):
        return None
    return runtime if 0 <= runtime < math.inf else None


_RUNTIME: Final = RUNTIME.encode()
#: The most bytes of the name and its value.
_RUNTIME_BYTES: Final = 40
_DOUBLE: Final = struct.Struct(">d")


#: The fields of a record that a meta may lack, in their order. A meta has them by the same names.
_OPTIONAL_FIELDS: Final = TaskRecord._fields[2:-1]
_META_FIELDS: Final = frozenset({"status", "result", *_OPTIONAL_FIELDS})


def pack_payload(payload: Payload) -> bytes:
    """Return the bytes of a payload that is not part of a record, such as that of a saved group."""
    return pack_fields((RECORD_VERSION, payload))


def unpack_payload(data: bytes) -> Payload:
    """Return the payload that `pack_payload` wrote. Raises `DecodeError` or `NewerFormat`."""
    try:
        _, fields = _unpack(data)
    except ValueError as error:
        raise DecodeError(f"The bytes are not a payload of version {RECORD_VERSION}: {error}") from error
    return _payload(fields)


def pack_fields(fields: tuple[Any, ...]) -> bytes:
    """Return the bytes of the record with these fields, without making a `TaskRecord` of them."""
    try:
        packed: bytes = msgpack.Packer(default=_as_text).pack(fields)
    except UnicodeEncodeError:  # a traceback may quote a file name that is not UTF-8
        return _pack_lenient(fields)
    except _REFUSALS as error:
        raise _refused(error) from error
    return packed


def _pack_lenient(fields: tuple[Any, ...]) -> bytes:
    try:
        packed: bytes = msgpack.Packer(default=_as_text, unicode_errors="surrogatepass").pack(fields)
    except _REFUSALS as error:
        raise _refused(error) from error
    return packed


#: What msgpack raises for what it cannot write.
_REFUSALS: Final = (TypeError, ValueError, OverflowError)


def _refused(error: Exception) -> EncodeError:
    return EncodeError(f"A field of the record cannot be written by msgpack: {error}")


def _as_text(value: Any) -> str:
    """Return the text of an id that was given as UUID, or of a name that is translated late."""
    if isinstance(value, int):
        raise OverflowError(f"{value} has more than 64 bits")
    return str(value)


def _unpack(data: bytes) -> list[Any]:
    try:
        fields = msgpack.unpackb(data)
    except UnicodeDecodeError:
        fields = _unpack_lenient(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DecodeError(f"The bytes are not msgpack: {error}") from error
    if not isinstance(fields, list) or not fields or type(fields[0]) is not int or fields[0] < 1:
        raise DecodeError("The bytes are msgpack but not a record: they do not begin with a version")
    if fields[0] > RECORD_VERSION:
        raise NewerFormat(
            f"The record has format version {fields[0]}; this lmdbresults reads up to {RECORD_VERSION}: upgrade it."
        )
    return fields


def _unpack_lenient(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, unicode_errors="surrogatepass")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DecodeError(f"The bytes are not msgpack: {error}") from error


#: The types of the fields of a payload.
_PAYLOAD_TYPES: Final = {
    (str, str, compression, bytes, extra) for compression in (str, type(None)) for extra in (bytes, type(None))
}
_FIELDS: Final = len(TaskRecord._fields)
_new_tuple = tuple.__new__
_unpackb = msgpack.unpackb


def _fields(data: bytes) -> list[Any]:
    """Return the fields of a task record; the last is a list of those of the payload. Raises as `TaskRecord.unpack`."""
    try:
        fields: list[Any] = _unpackb(data)
        content_type, encoding, compression, body, extra = fields[-1]
        if (
            data.startswith(_BEGINNING)
            and type(fields[1]) is str
            and type(body) is bytes
            and type(content_type) is str
            and type(encoding) is str
            and (compression is None or type(compression) is str)
            and (extra is None or type(extra) is bytes)
        ):
            return fields
    except Exception:  # noqa: S110 - of many kinds; the slow way distinguishes them, and reads what is merely unusual
        pass
    return _verified_fields(data)


def _verified_fields(data: bytes) -> list[Any]:
    """Return the fields of a task record, checked one by one. Raises `DecodeError` or `NewerFormat`."""
    fields = _unpack(data)
    if len(fields) != _FIELDS:
        raise _not_a_record(f"it has {len(fields)} fields")
    if type(fields[1]) is not str:
        raise _not_a_record("a field has the wrong type")
    _payload(fields[-1])
    return fields


def _payload(fields: Any) -> Payload:
    if type(fields) is not list or tuple(map(type, fields)) not in _PAYLOAD_TYPES:
        raise _not_a_record("a field of its payload has the wrong type")
    return new_payload(fields)


def _not_a_record(why: str) -> DecodeError:
    return DecodeError(f"The bytes are not a task record of version {RECORD_VERSION}: {why}")


#: The first bytes of a record of this version: the number of fields, and the version.
_BEGINNING: Final[bytes] = msgpack.Packer().pack_array_header(_FIELDS) + msgpack.packb(RECORD_VERSION)
#: The first bytes of a record in state SUCCESS; a store compares them without decoding the record.
SUCCESS_PREFIX: Final[bytes] = _BEGINNING + msgpack.packb(SUCCESS)
