"""The Celery backend on a server: its URLs, its options, and those of Celery's own backend that it honours."""

import ssl
from typing import Any

import pytest
from celery.exceptions import ImproperlyConfigured

from lmdbresults.errors import StoreUnavailable
from lmdbresults.integrations.celery.server_backend import ServerBackend
from tests.support.celery_tasks import make_app


def backend(url: str, **settings: Any) -> Any:
    return make_app({"result_backend": url, **settings}).backend


def test_the_word_before_the_plus_chooses_the_backend_and_the_rest_is_the_url_of_the_store():
    cluster = backend("lmdbresults+redis+cluster://a:7000,b:7001")
    assert type(cluster) is ServerBackend
    assert cluster.store.options.hosts == (("a", 7000), ("b", 7001))
    secret = backend("lmdbresults+rediss://me:secret@host/2?ssl_cert_reqs=none")
    assert secret.as_uri() == "lmdbresults+rediss://host:6379/2"
    assert "secret" in secret.as_uri(include_password=True)


def test_transport_options_of_the_store_and_of_celerys_own_backend_are_honoured():
    found = backend(
        "lmdbresults+redis+sentinel://host/",
        result_backend_transport_options={
            "master_name": "mymaster",
            "retry_policy": {"timeout": 5.0, "max_retries": 3},
            "global_keyprefix": "app",
            "visibility_timeout": 60,
        },
        redis_socket_timeout=3.0,
    ).store.options
    assert (found.service_name, found.retry_timeout, found.global_keyprefix) == ("mymaster", 5.0, "app_")
    assert (found.socket_timeout, found.socket_connect_timeout) == (3.0, 5.0)


def test_the_url_wins_over_the_settings():
    settings = {"redis_password": "other", "result_backend_transport_options": {"retry_timeout": 1}}
    found = backend("lmdbresults+redis://me:secret@host?retry_timeout=2", **settings).store.options
    assert (found.password, found.retry_timeout) == ("secret", 2.0)


def test_celerys_settings_for_tls_are_honoured():
    tls = {"ssl_cert_reqs": ssl.CERT_OPTIONAL, "ssl_ca_certs": "/ca.pem"}
    found = backend("lmdbresults+rediss://host", redis_backend_use_ssl=tls).store.options
    assert (found.ssl_cert_reqs, found.ssl_ca_certs) == ("optional", "/ca.pem")


@pytest.mark.parametrize("url", ["lmdbresults+lmdb:///path", "lmdbresults+http://host", "lmdbresults"])
def test_a_url_that_is_not_of_a_server_is_a_configuration_error(url: str):
    with pytest.raises(ImproperlyConfigured, match=r"write lmdb:///path alone|must be one of"):
        backend(url)


def test_a_server_that_is_down_is_an_error_that_a_retry_may_cure():
    down = backend("lmdbresults+redis://127.0.0.1:1?retry_timeout=0")
    with pytest.raises(StoreUnavailable) as caught:
        down.get_task_meta("x")
    assert down.exception_safe_to_retry(caught.value)
