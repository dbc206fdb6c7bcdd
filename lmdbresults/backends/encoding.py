"""Results on their way into and out of the store: values, exceptions, payloads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from lmdbresults import serialization, states
from lmdbresults.errors import DecodeError, described
from lmdbresults.portable_exceptions import (
    exception_from_portable,
    exception_to_picklable,
    exception_to_portable,
)
from lmdbresults.protocols import Meta
from lmdbresults.record import Payload, new_payload, pack_payload, unpack_payload
from lmdbresults.results import AsyncResult, GroupResult

__all__ = ["STORED_OTHERWISE", "Codec", "Meta", "encode_what_can_be"]

_HANDLES: Final = (AsyncResult, GroupResult)
#: The types of results that `Codec.encode_result` changes. All others are stored as they are.
STORED_OTHERWISE: Final = (BaseException, *_HANDLES)


class Codec:
    """Encodes results by one serializer, and decodes those of all serializers that it accepts.

    ``max_bytes`` bounds the size of a payload once it is decompressed. Raises `UnknownSerializer` for a serializer or
    compression that is unknown or not installed.
    """

    def __init__(
        self,
        serializer: str,
        accept: Iterable[str],
        compression: str | None = None,
        max_bytes: int = serialization.MAX_DECODED_BYTES,
    ) -> None:
        serialization.dumps(None, serializer, compression)  # fails here rather than with the first result
        self.serializer = serializer
        #: Content types that are decoded.
        self.accept = serialization.accepted_types(accept)
        self._coder = serialization.serializers()[serializer]
        self._decode = self._coder.decode
        #: The content type of this serializer, if it is accepted.
        self._own_type = self._coder.content_type if self._coder.content_type in self.accept else None
        self.compression = compression
        self.max_bytes = max_bytes

    # -- results in the form in which they are stored, and back ------------------------------------------------------

    def encode_result(self, result: Any, state: str) -> Any:
        """Return the result of a state in the form in which it is stored."""
        if isinstance(result, BaseException) and state in states.EXCEPTION_STATES:
            return self.prepare_exception(result)
        return self.prepare_value(result) if isinstance(result, _HANDLES) else result

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Return an exception in the form in which it is stored: itself for pickle, else a mapping of its parts."""
        serializer = serializer or self.serializer
        if serializer == "pickle":
            return exception_to_picklable(exc)
        return exception_to_portable(exc, serializer)

    def prepare_value(self, result: Any) -> Any:
        """Return a result in the form in which it is stored: a result handle as a tuple, unless it is pickled."""
        if isinstance(result, _HANDLES) and self.serializer != "pickle":
            return result.as_tuple()
        return result

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Return the exception that `prepare_exception` took apart. Raises `SecurityError` for any other class."""
        if exc is None or isinstance(exc, BaseException):
            return exc
        if not isinstance(exc, Mapping):
            raise DecodeError(f"A stored exception must be a mapping with exc_type, got {exc!r}")
        return exception_from_portable(exc)

    def meta_from_decoded(self, meta: Meta) -> Meta:
        """Turn the exception in a meta into an instance; return the meta."""
        if meta["status"] in states.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    # -- bytes -------------------------------------------------------------------------------------------------------

    def encode(self, data: Any) -> bytes:
        """Return data as bytes that name their content type. Raises `EncodeError`."""
        return pack_payload(self.payload(data))

    def decode(self, payload: bytes | None) -> Any:
        """Return what `encode` encoded, here or elsewhere. Raises `ContentDisallowed` or `DecodeError`."""
        return None if payload is None else self.value(unpack_payload(payload))

    def payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        """Return data, and a mapping ``extra`` beside it, as a payload. Raises `EncodeError`."""
        if extra is None and self.compression is None:
            coder = self._coder
            try:
                return new_payload((coder.content_type, coder.content_encoding, None, coder.encode(data), None))
            except Exception:  # noqa: S110 - dumps() fails as well, and says why
                pass
        payload = serialization.dumps(data, self.serializer, self.compression)
        return payload if extra is None else payload._replace(extra=self._extra_body(extra))

    def value(self, payload: Sequence[Any]) -> Any:
        """Return the data in a payload, or in its fields. Raises `ContentDisallowed` or `DecodeError`."""
        content_type, _, compression, body, _ = payload
        if content_type == self._own_type and compression is None:
            try:
                return self._decode(body)
            except Exception:  # noqa: S110 - loads() fails as well, and says why
                pass
        return serialization.loads(new_payload(payload), self.accept, self.max_bytes)

    def _extra_body(self, extra: Mapping[str, Any]) -> bytes:
        def encode(value: Any) -> bytes:
            return serialization.dumps(value, self.serializer, self.compression).body

        return encode_what_can_be(extra, encode)


def encode_what_can_be(values: Mapping[str, Any], encode: Callable[[Any], bytes]) -> bytes:
    """Return the encoded values. What ``encode`` refuses is replaced by its repr.

    Arguments of a task that only its queue can carry must not cost the task its result.
    """
    try:
        return encode(values)
    except Exception:  # of any serializer
        return encode({name: _encodable(value, encode) for name, value in values.items()})


def _encodable(value: Any, encode: Callable[[Any], bytes]) -> Any:
    try:
        encode(value)
    except Exception:
        return described(value)
    return value
