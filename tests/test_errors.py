"""Errors: their docstrings, their bases, and keys in their messages."""

import ast
import inspect
import pickle
from pathlib import Path

import pytest

from lmdbresults import errors, open_store
from lmdbresults.errors import quoted
from lmdbresults.store.memory import MemoryStore

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]

BUILTINS = {
    errors.ConfigurationError: ValueError,
    errors.OpenError: OSError,
    errors.FolderMissing: FileNotFoundError,
    errors.AccessDenied: PermissionError,
    errors.ReadOnlyPath: PermissionError,
    errors.WrongOwner: PermissionError,
    errors.StoreClosed: RuntimeError,
    errors.StoreFull: OSError,
    errors.StoreBusy: TimeoutError,
    errors.DiskFailed: OSError,
    errors.TooManyReaders: RuntimeError,
    errors.NestedTransaction: RuntimeError,
    errors.ForkedStore: RuntimeError,
    errors.NotACounter: ValueError,
    errors.UnknownSerializer: ValueError,
    errors.EncodeError: TypeError,
    errors.DecodeError: ValueError,
    errors.ResultTimeout: TimeoutError,
    errors.NotRegistered: LookupError,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_each_docstring_says_when_the_error_is_raised(kind: type[Exception]):
    assert kind.__doc__.startswith(("Raised when ", "Raised in a forked child when "))


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_is_a_result_error(kind: type[Exception]):
    assert issubclass(kind, errors.ResultError)


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_an_error_can_be_caught_as_a_builtin(kind: type[Exception], builtin: type[Exception]):
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_can_be_pickled(kind: type[Exception]):
    copy = pickle.loads(pickle.dumps(kind("what, where, cure")))
    assert type(copy) is kind
    assert str(copy) == "what, where, cure"


def test_all_errors_are_public():
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in CLASSES)


def test_the_module_imports_nothing():
    tree = ast.parse(inspect.getsource(errors))
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)] == []


# -- keys in messages --------------------------------------------------------------------------------------------

ID = b"celery-task-meta-0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize("key", [b"", ID, b"\xff\0'", b"k" * 97])
def test_a_short_key_is_quoted_whole(key: bytes) -> None:
    assert quoted(key) == repr(key)


@pytest.mark.parametrize("key", [b"k" * 98, b"\xff" * 26, ID * 1000])
def test_a_long_key_is_quoted_by_both_ends_and_its_length(key: bytes) -> None:
    assert quoted(key) == f"{repr(key)[:70]}...{repr(key)[-30:]} ({len(key)} bytes)"


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_error_about_a_long_key_is_short(tmp_path: Path, kind: str) -> None:
    key = ID * 10_000
    with open_store(tmp_path / "r.lmdb", durability="none") if kind == "file" else MemoryStore() as store:
        store.set(key, b"not a number")
        with pytest.raises(errors.NotACounter, match=rf"\.\.\..*\({len(key)} bytes\)") as caught:
            store.incr(key)
        assert len(str(caught.value)) < 250
