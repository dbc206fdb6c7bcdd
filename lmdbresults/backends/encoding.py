"""Results on their way into and out of the store: values, exceptions, payloads."""

from collections.abc import Mapping
from typing import Any, Final

from lmdbresults import serialization, states
from lmdbresults.errors import DecodeError, EncodeError
from lmdbresults.record import Payload, pack_payload, unpack_payload
from lmdbresults.results import AsyncResult, GroupResult

__all__ = ["Encoding", "Meta"]

Meta = dict[str, Any]

_HANDLES: Final = (AsyncResult, GroupResult)


class Encoding:
    """How results are encoded. Mixed into a backend, which sets the attributes."""

    EXCEPTION_STATES = states.EXCEPTION_STATES

    serializer: str
    compression: str | None
    #: Content types that are decoded.
    accept: frozenset[str]

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Return an exception in the form in which it is stored: itself for pickle, else a mapping of its parts."""
        serializer = serializer or self.serializer
        if serializer == "pickle":
            return serialization.exception_to_picklable(exc)
        return serialization.exception_to_portable(exc, serializer)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Return the exception that `prepare_exception` took apart. Raises `SecurityError` for what is none."""
        if exc is None or isinstance(exc, BaseException):
            return exc
        if not isinstance(exc, Mapping):
            raise DecodeError(f"A stored exception is a mapping with exc_type, not {exc!r}")
        return serialization.exception_from_portable(exc)

    def prepare_value(self, result: Any) -> Any:
        """Return a result in the form in which it is stored: a handle of results becomes a tuple, unless pickled."""
        if isinstance(result, _HANDLES) and self.serializer != "pickle":
            return result.as_tuple()
        return result

    def encode_result(self, result: Any, state: str) -> Any:
        """Return the result of a state in the form in which it is stored."""
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def encode(self, data: Any) -> bytes:
        """Return data as bytes that say how they are encoded. Raises `EncodeError`."""
        return pack_payload(self._payload(data))

    def decode(self, payload: bytes | None) -> Any:
        """Return what `encode` encoded, here or elsewhere. Raises `ContentDisallowed` or `DecodeError`."""
        return None if payload is None else serialization.loads(unpack_payload(payload), self.accept)

    def _payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        payload = serialization.dumps(data, self.serializer, self.compression)
        return payload if extra is None else payload._replace(extra=self._extra_body(extra))

    def _extra_body(self, extra: Mapping[str, Any]) -> bytes:
        try:
            return serialization.dumps(extra, self.serializer, self.compression).body
        except EncodeError:  # arguments that only their queue can carry must not cost the task its result
            described = {name: repr(value) for name, value in extra.items()}
            return serialization.dumps(described, self.serializer, self.compression).body

    def _decoded(self, payload: Payload) -> Any:
        return serialization.loads(payload, self.accept)

    def meta_from_decoded(self, meta: Meta) -> Meta:
        """Bring the exception in a meta back to life."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta
