"""Options in ``result_backend_transport_options``: those of the store are used, those of other backends ignored."""

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import parse_qsl

from celery.exceptions import ImproperlyConfigured

from lmdbresults.options import Options, parse_size

__all__ = ["MAX_DECODED_BYTES", "store_options"]

#: The option that is for the codec and not for the store.
MAX_DECODED_BYTES: Final = "max_decoded_bytes"
#: Celery uses the option ``global_keyprefix`` itself.
_STORES: Final = [field.name for field in fields(Options) if field.name not in ("path", "clock", "global_keyprefix")]
_OURS: Final = (*_STORES, MAX_DECODED_BYTES)
#: Options of other backends and brokers, which programs pass whatever backend they have.
_OTHERS: Final = frozenset(
    """
    global_keyprefix
    visibility_timeout fanout_prefix fanout_patterns sep ack_emulation priority_steps queue_order_strategy
    unacked_key unacked_index_key unacked_mutex_key unacked_mutex_expire unacked_restore_limit
    socket_timeout socket_connect_timeout socket_keepalive socket_keepalive_options retry_on_timeout
    health_check_interval max_connections client_name connection_class credential_provider db username password
    master_name service_name sentinel_kwargs min_other_sentinels retry_policy
    interval_start interval_step interval_max max_retries errback confirm_publish client_properties login_method
    read_timeout write_timeout connect_timeout heartbeat ssl
    region predefined_queues queue_name_prefix polling_interval wait_time_seconds is_secure port sts_role_arn
    data_folder_in data_folder_out processed_folder store_processed control_folder
    """.split()  # noqa: SIM905
)


def store_options(url: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the transport options of the store and of the codec, without those that the URL has: it wins.

    A name that is nearly that of an option raises ``ImproperlyConfigured``; an unknown name warns.
    """
    in_url = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    found, unknown = {}, []
    for name, value in given.items():
        if name in _OTHERS:
            continue
        if name in _OURS:
            if name not in in_url:
                found[name] = value
            continue
        nearly = difflib.get_close_matches(name, _OURS, n=1, cutoff=0.75)
        if nearly:
            raise ImproperlyConfigured(
                f"result_backend_transport_options has {name!r}: is {nearly[0]!r} meant? Rename it or remove it."
            )
        unknown.append(name)
    if unknown:
        warnings.warn(
            f"result_backend_transport_options has {', '.join(unknown)}, which the LMDB result backend ignores. "
            f"Its options are {', '.join(_OURS)}.",
            stacklevel=2,
        )
    if isinstance(found.get(MAX_DECODED_BYTES), str):
        found[MAX_DECODED_BYTES] = _size(found[MAX_DECODED_BYTES])
    return found


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"{MAX_DECODED_BYTES} must be a size, got {text!r}: {error}") from error
