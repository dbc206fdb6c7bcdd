"""Payloads by Celery's serializers. They name their encoding, so a reader need not be configured like the worker."""

from collections.abc import Mapping
from typing import Any, Final

from kombu.compression import compress, decompress
from kombu.serialization import dumps, loads, registry
from kombu.utils import json as kombu_json
from kombu.utils.encoding import ensure_bytes

from lmdbresults.fast_json import json_decoder, json_encoder
from lmdbresults.record import Payload, new_payload

__all__ = ["KombuCodec"]

_JSON: Final = "application/json"
#: kombu makes a new encoder, and a new decoder, for every value. These are the same ones, made once.
_encode_json = json_encoder(kombu_json.JSONEncoder().default)
_decode_json = json_decoder(kombu_json.object_hook)


class KombuCodec:
    """Encodes and decodes values as the settings of a Celery backend say at that moment."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        """Return data, and a mapping ``extra`` beside it, as a payload."""
        backend = self._backend
        method = getattr(backend, "compression", None)  # since Celery 5.7
        if extra is None and not method and backend.encoder is kombu_json.dumps:
            try:
                return new_payload((_JSON, "utf-8", None, _encode_json(data), None))
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        body, compression, extra_body = self._encoded(data), None, None if extra is None else self._encoded(extra)
        if method:
            body, compression = compress(body, method)
            extra_body = extra_body and compress(extra_body, method)[0]
        return Payload(backend.content_type, backend.content_encoding, compression, body, extra_body)

    def value(self, payload: Payload) -> Any:
        """Return the data in a payload, if the backend accepts its content type."""
        content_type, content_encoding, compression, body, _ = payload
        if compression:
            body = decompress(body, compression)
        accept = self._backend.accept
        if content_type == _JSON and _JSON in accept and registry._decoders.get(_JSON) is kombu_json.loads:
            try:
                return _decode_json(body)
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        return loads(body, content_type, content_encoding, accept=accept)

    def _encoded(self, data: Any) -> bytes:
        body: bytes = ensure_bytes(dumps(data, serializer=self._backend.serializer)[2])
        return body
