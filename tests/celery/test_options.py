"""``result_backend_transport_options``: options of the store are used, the URL wins, others are ignored."""

from pathlib import Path
from typing import Any

import pytest
from celery import states
from celery.exceptions import ImproperlyConfigured

from lmdbresults.errors import DecodeError
from tests.support.celery_needed import needs_5_7
from tests.support.celery_tasks import make_app, settings_for


def made_with(folder: Path, query: str = "", **options: Any) -> Any:
    settings = settings_for(folder, result_backend_transport_options=options)
    return make_app({**settings, "result_backend": settings["result_backend"].partition("?")[0] + query}).backend


def test_an_option_of_the_store_is_used(tmp_path: Path) -> None:
    with made_with(tmp_path, durability="none", max_size="8MiB", checkpoint_interval="2").store as store:
        assert (store.options.durability, store.options.max_size) == ("none", 8 << 20)
        assert store.options.checkpoint_interval == 2


def test_the_url_wins(tmp_path: Path) -> None:
    with made_with(tmp_path, "?durability=commit", durability="none", max_size=8 << 20).store as store:
        assert (store.options.durability, store.options.max_size) == ("commit", 8 << 20)


def test_options_of_other_backends_are_ignored_in_silence(tmp_path: Path) -> None:
    others = {"visibility_timeout": 3600, "data_folder_in": "/in", "socket_keepalive": True, "master_name": "mymaster"}
    with made_with(tmp_path, retry_policy={"timeout": 5.0}, **others).store as store:
        assert store.options.durability == "checkpoint"


def test_a_name_that_is_nearly_an_option_is_an_error_that_says_which(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="'durabilty': is 'durability' meant"):
        made_with(tmp_path, durabilty="none")


def test_an_unknown_option_is_one_warning_that_lists_the_options(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="colour, shape, which .* ignores. .*durability, .*max_decoded_bytes") as seen:
        made_with(tmp_path, colour="blue", shape="round").store.close()
    assert len(seen) == 1


@pytest.mark.parametrize(("option", "value"), [("durability", "never"), ("max_decoded_bytes", "a lot")])
def test_an_invalid_value_is_a_configuration_error(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=option):
        made_with(tmp_path, **{option: value})


@needs_5_7
@pytest.mark.parametrize("limit", [1000, "1kB"])
def test_a_result_is_not_decompressed_beyond_max_decoded_bytes(application: Any, limit: Any) -> None:
    app = application(result_compression="gzip", result_backend_transport_options={"max_decoded_bytes": limit})
    app.backend.store_result("small", "x" * 900, states.SUCCESS)
    app.backend.store_result("large", "x" * 1100, states.SUCCESS)
    assert app.AsyncResult("small").get(timeout=0) == "x" * 900
    with pytest.raises(DecodeError, match="max_decoded_bytes"):
        app.AsyncResult("large").get(timeout=0)
