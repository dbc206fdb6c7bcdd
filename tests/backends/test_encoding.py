"""Values, exceptions and payloads on their way into the store and back."""

import asyncio
import os
import sys
from types import ModuleType

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import BaseBackend
from lmdbresults.errors import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SecurityError,
    TaskError,
)
from lmdbresults.results import AsyncResult, GroupResult, result_from_tuple
from tests.support.plain import DictBackend

interface = pytest.mark.interface

PORTABLE = ["json", "msgpack", "yaml"]


def backend_with(serializer: str, **conf: object) -> DictBackend:
    return DictBackend(App({"result_serializer": serializer, "accept_content": (serializer,), **conf}))


class Outer:
    class Inner(Exception):
        pass


class Unpicklable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("not this one")


class WantsTwo(Exception):
    """Keeps other arguments than it is made with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


# -- exceptions ------------------------------------------------------------------------------------------------------


@interface("exceptions")
@pytest.mark.parametrize("serializer", [*PORTABLE, "pickle"])
@pytest.mark.parametrize(
    "error",
    [
        KeyError("key"),
        ValueError(),
        ValueError("ά", 1, None),
        Outer.Inner("nested"),
        BaseException("base"),
        SystemExit(3),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
def test_an_exception_comes_back_with_its_class_and_arguments(serializer, error):
    backend = backend_with(serializer)
    backend.store_result("id", error, states.FAILURE)
    back = backend.get_result("id")
    assert type(back) is type(error)
    assert back.args == error.args


@interface("exceptions", "prepare_value, encode_result")
@pytest.mark.parametrize("state", sorted(states.EXCEPTION_STATES))
def test_an_exception_is_stored_by_type_module_and_arguments(state):
    portable = {"exc_type": "Outer.Inner", "exc_message": ["why"], "exc_module": __name__}
    assert backend_with("json").encode_result(Outer.Inner("why"), state) == portable
    assert backend_with("json").prepare_exception(Outer.Inner("why")) == portable


@interface("exceptions")
def test_an_exception_is_stored_as_it_is_by_pickle():
    error = KeyError("key")
    assert backend_with("pickle").prepare_exception(error) is error
    assert backend_with("json").prepare_exception(error, "pickle") is error
    assert backend_with("pickle").prepare_exception(error, "json")["exc_type"] == "KeyError"


@interface("exceptions")
@pytest.mark.parametrize("serializer", PORTABLE)
def test_an_argument_that_cannot_be_stored_becomes_its_description(serializer):
    backend = backend_with(serializer)
    backend.store_result("id", ValueError(object, 1), states.FAILURE)
    assert backend.get_result("id").args == (repr(object), 1)


@interface("exceptions")
def test_an_exception_that_does_not_survive_pickle_becomes_a_task_error():
    backend = backend_with("pickle")
    backend.store_result("id", Unpicklable("lost"), states.FAILURE)
    back = backend.get_result("id")
    assert type(back) is TaskError
    assert str(back) == f"{__name__}.Unpicklable: lost"


@interface("exceptions")
def test_an_exception_that_takes_other_arguments_becomes_a_task_error():
    backend = backend_with("json")
    back = backend.exception_to_python(backend.prepare_exception(WantsTwo(404, "gone")))
    assert type(back) is TaskError
    assert str(back) == f"{__name__}.WantsTwo: 404: gone"


@interface("exceptions")
@pytest.mark.parametrize("module", ["nowhere.to.be.found", __name__, None])
def test_an_exception_class_that_is_not_imported_is_created_with_its_name(module):
    portable = {"exc_type": "Missing", "exc_message": ["why", 1], "exc_module": module}
    back = BaseBackend().exception_to_python(portable)
    assert isinstance(back, TaskError)
    assert (type(back).__name__, back.args) == ("Missing", ("why", 1))
    assert type(back).__module__ == (module or TaskError.__module__)


@interface("exceptions")
def test_a_module_is_never_imported_to_find_an_exception(tmp_path, monkeypatch):
    (tmp_path / "imported_by_a_stored_name.py").write_text("class Error(Exception): pass")
    monkeypatch.syspath_prepend(tmp_path)
    name = "imported_by_a_stored_name"
    back = BaseBackend().exception_to_python({"exc_type": "Error", "exc_message": [], "exc_module": name})
    assert isinstance(back, TaskError)
    assert name not in sys.modules


@interface("exceptions")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "object"),
        ("builtins", "print"),
        (__name__, "Outer"),
        (__name__, "PORTABLE"),
        ("os", "path"),
    ],
)
def test_the_name_of_something_else_than_an_exception_raises_a_security_error(module, name):
    backend = backend_with("json")
    forged = {"exc_type": name, "exc_message": ["echo forged"], "exc_module": module}
    with pytest.raises(SecurityError, match=f"{module}.{name}"):
        backend.exception_to_python(forged)
    backend.store_result("id", forged, states.FAILURE)
    with pytest.raises(SecurityError, match=f"{module}.{name}"):
        backend.get_result("id")


@interface("exceptions")
def test_a_stored_name_is_never_called(monkeypatch):
    called = []
    module = ModuleType("module_with_a_trap")
    module.trap = called.append
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(os, "system", called.append)
    for where, name in (("os", "system"), (module.__name__, "trap")):
        with pytest.raises(SecurityError):
            BaseBackend().exception_to_python({"exc_type": name, "exc_message": ["x"], "exc_module": where})
    assert called == []


@interface("exceptions")
def test_exception_to_python_returns_exceptions_and_none_unchanged():
    error = KeyError("key")
    assert BaseBackend().exception_to_python(error) is error
    assert BaseBackend().exception_to_python(None) is None


@interface("exceptions")
@pytest.mark.parametrize("stored", ["text", 3, ["list"], {"no": "type"}])
def test_a_stored_value_that_is_not_an_exception_raises_a_decode_error(stored):
    with pytest.raises(DecodeError, match="exc_type"):
        BaseBackend().exception_to_python(stored)


# -- values ----------------------------------------------------------------------------------------------------------


@interface("prepare_value, encode_result")
@pytest.mark.parametrize("handle", [AsyncResult("id"), GroupResult("group", [AsyncResult("id")])], ids=["one", "group"])
def test_a_handle_is_stored_as_a_tuple_unless_it_is_pickled(handle):
    prepared = backend_with("json").prepare_value(handle)
    assert prepared == backend_with("json").encode_result(handle, states.SUCCESS) == handle.as_tuple()
    assert result_from_tuple(prepared) == handle
    assert backend_with("pickle").prepare_value(handle) is handle


@interface("prepare_value, encode_result")
@pytest.mark.parametrize("value", [None, 1, "text", {"exc_type": "ValueError"}, ValueError("returned, not raised")])
def test_any_other_result_is_stored_unchanged(value):
    assert backend_with("json").encode_result(value, states.SUCCESS) is value


# -- payloads --------------------------------------------------------------------------------------------------------


@interface("encode, decode")
@pytest.mark.parametrize("serializer", [*PORTABLE, "pickle"])
def test_encoded_data_is_decoded_by_a_backend_that_accepts_its_type(serializer):
    value = {"list": [1, None, "ä"], "nested": {"x": 0.5}}
    payload = backend_with(serializer).encode(value)
    assert isinstance(payload, bytes)
    assert BaseBackend(accept=[*PORTABLE, "pickle"]).decode(payload) == value


@interface("encode, decode")
@pytest.mark.parametrize("serializer", ["yaml", "pickle"])
def test_a_content_type_that_is_not_accepted_is_not_decoded(serializer):
    writer, reader = backend_with(serializer), DictBackend()
    writer.store_result("id", 1, states.SUCCESS)
    reader.data = writer.data
    with pytest.raises(ContentDisallowed, match="add it to the accepted content"):
        reader.decode(writer.encode(1))
    with pytest.raises(ContentDisallowed):
        reader.get_result("id")


@interface("encode, decode")
def test_content_types_are_accepted_by_either_name():
    payload = backend_with("yaml").encode([1])
    assert BaseBackend(accept=["application/x-yaml"]).decode(payload) == BaseBackend(accept=["yaml"]).decode(payload)


@interface("encode, decode")
def test_decoding_none_returns_none():
    assert BaseBackend().decode(None) is None


@interface("encode, decode")
@pytest.mark.parametrize("damaged", [b"", b"\xff", b"{}", b"\x92\x01\xc0"])
def test_bytes_that_are_not_a_payload_raise_a_decode_error(damaged):
    with pytest.raises(DecodeError):
        BaseBackend().decode(damaged)
    with pytest.raises(DecodeError):
        DictBackend().decode_result(damaged)


@interface("encode, decode")
def test_a_result_that_cannot_be_encoded_raises_and_is_not_stored():
    backend = backend_with("json")
    with pytest.raises(EncodeError, match="choose another serializer"):
        backend.store_result("id", object(), states.SUCCESS)
    assert backend.data == {}


@interface("encode, decode")
@pytest.mark.parametrize("state", sorted(states.EXCEPTION_STATES))
def test_decode_result_returns_the_exception_as_an_instance(state):
    backend = backend_with("json")
    portable = backend.prepare_exception(KeyError("key"))
    meta = backend.meta_from_decoded({"status": state, "result": portable})
    assert (type(meta["result"]), meta["result"].args) == (KeyError, ("key",))
    assert backend.meta_from_decoded({"status": "SUCCESS", "result": portable})["result"] == portable
    backend.store_result("id", KeyError("key"), state)
    decoded = backend.decode_result(backend.get(backend.get_key_for_task("id")))
    assert (decoded["status"], type(decoded["result"])) == (state, KeyError)


@interface("encode, decode", "constructor")
@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("compression", ["zlib", "bzip2", "lzma"])
def test_a_compressed_result_is_smaller_and_reads_the_same(serializer, compression):
    plain, squeezed = backend_with(serializer), backend_with(serializer, result_compression=compression)
    squeezed.data = plain.data
    value = ["a value that repeats itself", b"\x00\xff"] * 200
    plain.store_result("plain", value, states.SUCCESS)
    squeezed.store_result("squeezed", value, states.SUCCESS)
    sizes = {id_: len(plain.get(plain.get_key_for_task(id_))) for id_ in ("plain", "squeezed")}
    assert sizes["squeezed"] < sizes["plain"] / 2
    assert plain.get_result("squeezed") == squeezed.get_result("plain") == value


@interface("encode, decode", "exceptions")
def test_a_compressed_exception_reads_the_same():
    backend = backend_with("json", result_compression="zlib")
    backend.mark_as_failure("id", KeyError("why"))
    assert (type(backend.get_result("id")), backend.get_result("id").args) == (KeyError, ("why",))


@interface("store_result", "AsyncResult: extended")
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_arguments_that_cannot_be_stored_are_described_so_that_the_result_is_not_lost(serializer):
    backend = backend_with(serializer, result_extended=True)
    function = lambda: None  # noqa: E731 - what no serializer has a form for
    backend.mark_as_done("id", 42, Request("id", args=(function,), kwargs={"y": 1}))
    meta = backend.get_task_meta("id")
    assert (meta["result"], meta["args"], meta["kwargs"]) == (42, repr((function,)), {"y": 1})
