"""Payloads by Celery's serializers. They name their encoding, so a reader need not be configured like the worker."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from celery.utils.serialization import get_pickled_exception
from kombu import compression as kombu_compression
from kombu.serialization import dumps, loads, registry
from kombu.utils import json as kombu_json
from kombu.utils.encoding import ensure_bytes

from lmdbresults import serialization
from lmdbresults.backends.encoding import encode_what_can_be
from lmdbresults.fast_json import json_decoder, json_encoder
from lmdbresults.record import Payload, new_payload

__all__ = ["KombuCodec"]

_JSON: Final = "application/json"
#: kombu makes a new encoder, and a new decoder, for every value. These are the same ones, made once.
_encode_json = json_encoder(kombu_json.JSONEncoder().default)
_decode_json = json_decoder(kombu_json.object_hook)


class KombuCodec:
    """Encodes and decodes values as the settings of a Celery backend say at that moment.

    ``max_bytes`` bounds the size of a payload once it is decompressed.
    """

    def __init__(self, backend: Any, max_bytes: int = serialization.MAX_DECODED_BYTES) -> None:
        self._backend = backend
        self.max_bytes = max_bytes

    def payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        """Return data, and a mapping ``extra`` beside it, as a payload."""
        backend = self._backend
        method = getattr(backend, "compression", None)  # since Celery 5.7
        if extra is None and not method and _writes_kombu_json(backend.serializer):
            try:
                return new_payload((_JSON, "utf-8", None, _encode_json(data), None))
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        content_type, content_encoding, text = dumps(data, serializer=backend.serializer)
        body, compression = ensure_bytes(text), None
        extra_body = None if extra is None else encode_what_can_be(extra, self._encoded)
        if method:
            body, compression = kombu_compression.compress(body, method)
            extra_body = extra_body and kombu_compression.compress(extra_body, method)[0]
        return Payload(content_type, content_encoding, compression, body, extra_body)

    def value(self, payload: Sequence[Any]) -> Any:
        """Return the data in a payload, or in its fields, if the backend accepts its content type."""
        content_type, content_encoding, compression, body, _ = payload
        if compression:
            body = self._decompressed(body, compression)
        accept = self._backend.accept
        if content_type == _JSON and _JSON in accept and registry._decoders.get(_JSON) is kombu_json.loads:
            try:
                return _decode_json(body)
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        return loads(body, content_type, content_encoding, accept=accept)

    def exception(self, stored: Any) -> Any:
        """Return a stored exception as an instance; also one that had to be wrapped to be pickled."""
        if isinstance(stored, BaseException):
            return get_pickled_exception(stored)
        return self._backend.exception_to_python(stored)

    def _encoded(self, data: Any) -> bytes:
        body: bytes = ensure_bytes(dumps(data, serializer=self._backend.serializer)[2])
        return body

    def _decompressed(self, body: bytes, content_type: str) -> bytes:
        known = {compression.content_type for compression in serialization.compressions().values()}
        if content_type in known:
            return serialization.decompress(body, content_type, self.max_bytes)
        found: bytes = kombu_compression.decompress(body, content_type)  # of the application's own
        return found


def _writes_kombu_json(serializer: str) -> bool:
    """Return whether a serializer is kombu's JSON; an application may have registered another one by that name."""
    codec = registry._encoders.get(serializer)
    return codec is not None and codec.encoder is kombu_json.dumps
