"""What other programs do with a result backend by hand works as with Celery's own backends."""

from typing import Any

import pytest
from celery import states
from celery.result import AsyncResult
from celery.utils.serialization import UnpickleableExceptionWrapper, get_pickleable_exception

from tests.support.celery_tasks import OwnError


def test_the_values_of_mget_are_decoded_to_metas_with_their_ids(app: Any) -> None:
    """As Airflow's executor does."""
    backend = app.backend
    backend.store_result("a", {"x": 1}, states.SUCCESS)
    backend.store_result("b", OwnError("why"), states.FAILURE, traceback="Traceback")
    values = backend.mget([backend.get_key_for_task(task_id) for task_id in ("a", "missing", "b")])
    assert values[1] is None
    a, b = (backend.decode_result(value) for value in values if value)
    assert (a["task_id"], a["status"], a["result"]) == ("a", states.SUCCESS, {"x": 1})
    assert (b["task_id"], b["status"], type(b["result"])) == ("b", states.FAILURE, OwnError)


def test_the_value_of_get_is_decoded_to_a_plain_meta(app: Any) -> None:
    backend = app.backend
    backend.mark_as_failure("id", KeyError("why"), "Traceback")
    meta = backend.decode(backend.get(backend.get_key_for_task("id")))
    assert (meta["task_id"], meta["status"], meta["traceback"]) == ("id", states.FAILURE, "Traceback")
    assert meta["result"] == {"exc_type": "KeyError", "exc_message": ["why"], "exc_module": "builtins"}


def test_an_encoded_meta_that_is_set_is_the_result_of_the_task(app: Any) -> None:
    backend, key = app.backend, app.backend.get_key_for_task("id")
    backend.set(key, backend.encode({"status": "PROGRESS", "result": {"done": 1}, "task_id": "id"}))
    assert (AsyncResult("id").state, AsyncResult("id").info) == ("PROGRESS", {"done": 1})
    failure = {"exc_type": "KeyError", "exc_message": ["why"], "exc_module": "builtins"}
    backend.set(key, backend.encode({"status": states.FAILURE, "result": failure, "traceback": "Traceback"}))
    with pytest.raises(KeyError, match="why"):
        AsyncResult("id").get(timeout=240)
    backend.delete(key)
    assert AsyncResult("id").state == states.PENDING


def test_a_value_may_be_set_again_as_it_was_read(app: Any) -> None:
    backend, key = app.backend, app.backend.get_key_for_task("id")
    backend.store_result("id", 42, states.SUCCESS)
    backend.set(backend.get_key_for_task("copy"), backend.get(key))
    assert AsyncResult("copy").get(timeout=0) == 42


def test_keys_of_the_programs_own_hold_bytes(app: Any) -> None:
    app.backend.set(b"own", b"value")
    assert (app.backend.get(b"own"), app.backend.mget([b"own", b"none"])) == (b"value", [b"value", None])
    assert app.backend.client.get(b"own") == b"value"


class Odd(Exception):
    """Cannot be unpickled: it takes other arguments than it keeps."""

    def __init__(self, name: str, needed: Any = None) -> None:
        if needed is None:
            raise TypeError("needed is missing")
        super().__init__(name)


@pytest.mark.parametrize(("serializer", "kind"), [("json", UnpickleableExceptionWrapper), ("pickle", Exception)])
def test_a_wrapped_exception_is_unwrapped_only_if_it_was_pickled(application: Any, serializer: str, kind: type) -> None:
    app = application(result_serializer=serializer, accept_content=[serializer])
    app.backend.mark_as_failure("id", get_pickleable_exception(Odd("odd", 1)), traceback="Traceback")
    result = app.AsyncResult("id")
    assert isinstance(result.result, UnpickleableExceptionWrapper) is (serializer == "json")
    with pytest.raises(kind, match="odd"):
        result.get(timeout=0)
    assert isinstance(result.get(timeout=0, propagate=False), UnpickleableExceptionWrapper) is (serializer == "json")
