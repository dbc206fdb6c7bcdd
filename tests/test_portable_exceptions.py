"""Exceptions in a form that every serializer can write: what comes back, and what never runs."""

import pickle
import sys
import types
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdbresults.errors import DecodeError, SecurityError, TaskError, described
from lmdbresults.portable_exceptions import (
    exception_from_portable,
    exception_to_picklable,
    exception_to_portable,
)
from lmdbresults.serialization import dumps, loads

SAFE = ["json", "msgpack", "yaml"]

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just("builtins")
anything = st.recursive(leaves, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=10)


class OwnError(Exception):
    pass


class Demanding(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("one argument, of two")


@pytest.mark.parametrize("error", [ValueError("a", 1), KeyError(), OwnError(["x"]), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("serializer", SAFE)
def test_an_exception_comes_back_with_its_class_and_arguments(error: BaseException, serializer: str):
    portable = loads(dumps(exception_to_portable(error, serializer), serializer))
    found = exception_from_portable(portable)
    assert (type(found), found.args) == (type(error), error.args)


def test_an_argument_that_cannot_be_encoded_is_replaced_by_its_repr():
    assert exception_to_portable(ValueError(1, {2}))["exc_message"] == [1, "{2}"]


def test_an_exception_class_that_is_not_imported_becomes_a_task_error_of_that_name():
    assert "antigravity" not in sys.modules
    found = exception_from_portable({"exc_type": "Weightless", "exc_module": "antigravity", "exc_message": ["up"]})
    assert isinstance(found, TaskError)
    assert (type(found).__name__, type(found).__module__, found.args) == ("Weightless", "antigravity", ("up",))
    assert "antigravity" not in sys.modules


def test_an_exception_class_that_takes_other_arguments_becomes_a_task_error_with_its_text():
    found = exception_from_portable(exception_to_portable(Demanding(1, 2)))
    assert type(found) is TaskError
    assert "Demanding: one argument, of two" in str(found)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "print"), ("builtins", "dict"), (__name__, "Demanding.__init__")],
)
def test_a_stored_name_of_something_else_is_never_called(module: str, name: str, capfd: Any):
    with pytest.raises(SecurityError, match=f"{module}.{name}"):
        exception_from_portable({"exc_type": name, "exc_module": module, "exc_message": ["echo called"]})
    assert capfd.readouterr() == ("", "")


def test_a_stored_name_runs_no_code_of_its_module(monkeypatch: pytest.MonkeyPatch):
    """The module may import what it is asked for, as ``concurrent.futures`` does."""
    asked: list[str] = []
    module = types.ModuleType("lazy")
    module.__getattr__ = asked.append
    monkeypatch.setitem(sys.modules, "lazy", module)
    exception_from_portable({"exc_type": "Heavy.Error", "exc_module": "lazy", "exc_message": []})
    assert asked == []


@given(st.dictionaries(st.sampled_from(["exc_type", "exc_module", "exc_message"]), anything) | anything)
def test_any_stored_value_becomes_an_exception_or_raises_our_errors(portable: Any):
    with suppress(DecodeError, SecurityError):
        assert isinstance(exception_from_portable(portable), BaseException)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "\ud800", "a.", "builtins.", "\u00fc", "x" * 1000])
@pytest.mark.parametrize("module", [None, "", "builtins", "nowhere", "no\0where", "\ud800"])
def test_an_impossible_class_name_becomes_a_task_error(name: str, module: str | None):
    found = exception_from_portable({"exc_type": name, "exc_module": module, "exc_message": "why"})
    assert isinstance(found, TaskError)
    assert "why" in str(found)


def test_an_exception_that_cannot_be_pickled_becomes_a_task_error_with_its_text():
    ours, local = OwnError("x"), type("Local", (Exception,), {})("why")
    assert exception_to_picklable(ours) is ours
    found = exception_to_picklable(local)
    assert type(found) is TaskError
    assert "Local: why" in str(found)


class Detached:
    """Such as an ORM object without a session."""

    def __repr__(self) -> str:
        raise RuntimeError("not bound to a session")


class Speechless(Exception):
    """Neither its text nor its argument can be shown, and it cannot be pickled."""

    def __init__(self, *args: Any) -> None:
        super().__init__(Detached(), lambda: None)

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_repr_that_raises_is_replaced_by_a_note():
    assert described([1]) == "[1]"
    assert described(Detached()) == "<Detached object, whose repr() raises RuntimeError>"


@pytest.mark.parametrize("serializer", SAFE)
def test_an_exception_whose_repr_raises_comes_back(serializer: str):
    portable = loads(dumps(exception_to_portable(ValueError("cannot save", Detached()), serializer), serializer))
    found = exception_from_portable(portable)
    assert (type(found), found.args[0]) == (ValueError, "cannot save")
    assert "Detached object" in found.args[1]


def test_an_exception_without_text_that_cannot_be_pickled_becomes_a_task_error():
    found = pickle.loads(pickle.dumps(exception_to_picklable(Speechless())))
    assert type(found) is TaskError
    assert "Speechless: <Detached object" in str(found)
