"""Messages: kombu's form of them, and the bytes that lie in the store."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias

import msgpack
from kombu import message as kombu_message
from kombu.utils.json import dumps, loads

from lmdbresults.store import queues
from lmdbresults.store.queues import Death, Delivery

__all__ = ["Message", "Outgoing", "from_kombu"]

#: Body, content type, content encoding, headers and properties, by the names of kombu's virtual transports.
Outgoing: TypeAlias = dict[str, Any]

#: Properties that are made for each delivery. They are present in a message that is sent on, as by `celery migrate`.
_OF_DELIVERY: Final = ("delivery_info", "delivery_tag", "body_encoding", "lmdb")
_HIGHEST: Final = 9
#: What msgpack cannot write is written by kombu's json, as with other transports: times, decimals, large integers.
_JSON: Final = 1


def _to_json(value: object) -> msgpack.ExtType:
    return msgpack.ExtType(_JSON, dumps(value).encode())


def _from_json(kind: int, data: bytes) -> Any:
    return loads(data) if kind == _JSON else msgpack.ExtType(kind, data)


_pack: Final[Callable[[Any], bytes]] = partial(msgpack.packb, default=_to_json, unicode_errors="surrogatepass")
_unpack: Final[Callable[[bytes], Any]] = partial(
    msgpack.unpackb, ext_hook=_from_json, strict_map_key=False, unicode_errors="surrogatepass"
)


def from_kombu(message: Outgoing, exchange: str, key: str, *, is_unique: bool) -> queues.Message:
    """Return the message that the store publishes to an exchange with a routing key. ``is_unique``: if it is a task."""
    headers, properties = message["headers"], message["properties"]
    for name in _OF_DELIVERY:
        properties.pop(name, None)
    body = message["body"]
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    content = (message["content-type"], message["content-encoding"], exchange, key, body)
    try:
        packed = _pack((headers, properties, *content))
    except OverflowError:  # an integer of more than 64 bits
        packed = _pack((_to_json(headers), _to_json(properties), *content))
    priority, ttl = _priority(properties.get("priority")), _ttl(headers, properties.get("expiration"))
    unique = _unique(headers) if is_unique else None
    return queues.Message(packed, key, exchange, priority, ttl, _due(headers.get("eta")), unique)


def _unique(headers: dict[str, Any]) -> str | None:
    """Return what tells one message of a task of Celery from the next one, by which `retry` or `replace` goes on."""
    if not headers.get("id"):
        return None
    return f"{headers['id']} {headers.get('retries') or 0} {headers.get('replaced_task_nesting') or 0}"


def _ttl(headers: dict[str, Any], expiration: Any) -> float | None:
    """Return the seconds after which a message is dropped.

    A task of Celery that expires is left to the worker, which stores REVOKED: if the queue dropped it, its result would
    stay PENDING, and its chord would never end.
    """
    return None if expiration is None or headers.get("expires") else max(float(expiration), 1) / 1000


def _priority(given: Any) -> int:
    if not given:
        return 0
    try:
        return max(0, min(int(given), _HIGHEST))
    except (TypeError, ValueError):
        return 0


def _due(eta: Any) -> float | None:
    """Return when a task of Celery is due. What it does not have in its usual form, the worker decides."""
    if not eta or not isinstance(eta, str):
        return None
    try:
        time = datetime.fromisoformat(eta.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo else None


class Message(kombu_message.Message):
    """A message that was received."""

    def __init__(self, delivery: Delivery, channel: Any) -> None:
        headers, properties, content_type, encoding, exchange, key, body = _unpack(delivery.body)
        if delivery.deaths:
            headers["x-death"] = [_death(death) for death in delivery.deaths]
        if delivery.deliveries:
            headers["x-delivery-count"] = delivery.deliveries
        delivery_info = {
            "exchange": exchange,
            "routing_key": key,
            "redelivered": delivery.redelivered,
            "priority": delivery.priority,
        }
        properties["delivery_info"] = delivery_info
        properties["delivery_tag"] = delivery.tag
        properties["lmdb"] = channel.identity
        super().__init__(
            body=body,
            channel=channel,
            delivery_tag=delivery.tag,
            content_type=content_type,
            content_encoding=encoding,
            delivery_info=delivery_info,
            headers=headers,
            properties=properties,
        )


def _death(death: Death) -> dict[str, Any]:
    return {"queue": death.queue, "reason": death.reason, "count": death.times, "time": death.first}
