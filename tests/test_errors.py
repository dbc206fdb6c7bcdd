"""Every error says when it is raised and can be caught as what a caller would expect."""

import ast
import inspect
import pickle

import pytest

from lmdbresults import errors

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
def test_the_docstring_says_when_it_is_raised(kind: type[Exception]):
    assert kind.__doc__.startswith("Raised ")
    assert kind.__doc__.split()[1] in ("when", "in")


@pytest.mark.parametrize("kind", CLASSES)
def test_it_can_be_caught_as_an_error_of_this_package(kind: type[Exception]):
    assert issubclass(kind, errors.ResultError)


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_it_can_be_caught_as_the_builtin_that_a_caller_expects(kind: type[Exception], builtin: type[Exception]):
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", CLASSES)
def test_its_message_is_what_it_was_given_also_in_another_process(kind: type[Exception]):
    copy = pickle.loads(pickle.dumps(kind("what, where, cure")))
    assert type(copy) is kind
    assert str(copy) == "what, where, cure"


def test_all_of_them_are_public():
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in CLASSES)


def test_the_module_imports_nothing():
    tree = ast.parse(inspect.getsource(errors))
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)] == []
