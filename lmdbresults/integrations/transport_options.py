"""Options in Celery's transport options: those of the store are used, those of other backends and brokers ignored."""

import difflib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import parse_qsl

from lmdbresults.errors import ConfigurationError
from lmdbresults.options import Options

__all__ = ["STORE_OPTIONS", "store_options"]

#: The options of a store.
STORE_OPTIONS: Final = tuple(field.name for field in fields(Options) if field.name not in ("path", "clock"))
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
    retry_errors callback timeout
    region predefined_queues queue_name_prefix polling_interval wait_time_seconds is_secure port sts_role_arn
    data_folder_in data_folder_out processed_folder store_processed control_folder
    """.split()  # noqa: SIM905
)


def store_options(
    setting: str, url: str, given: Mapping[str, Any], known: Collection[str] = STORE_OPTIONS
) -> dict[str, Any]:
    """Return those transport options that are ``known``, without those that the URL has: it wins.

    Raises `ConfigurationError`, which names the ``setting``, for a name that is nearly that of an option; warns of any
    other unknown name.
    """
    in_url = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    found, unknown = {}, []
    for name, value in given.items():
        if name in known:
            if name not in in_url:
                found[name] = value
        elif name not in _OTHERS:
            nearly = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if nearly:
                raise ConfigurationError(f"{setting} has {name!r}: is {nearly[0]!r} meant? Rename it or remove it.")
            unknown.append(name)
    if unknown:
        warnings.warn(
            f"{setting} has {', '.join(unknown)}, which the store ignores. Its options are {', '.join(known)}.",
            stacklevel=3,
        )
    return found
