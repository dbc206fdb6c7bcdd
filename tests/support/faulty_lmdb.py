"""LMDB whose calls can be made to fail: environments, transactions and cursors pass on what they get, or raise."""

import errno
from collections.abc import Callable, Iterator
from typing import Any

import lmdb

__all__ = ["ERRORS", "Faults"]


def _all_below(kind: type[lmdb.Error]) -> Iterator[type[lmdb.Error]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all_below(below)


#: Each class of error that LMDB has, with the number that comes with it; the errors of the system have one class.
ERRORS = [
    *((kind, -30000) for kind in _all_below(lmdb.Error)),
    *((lmdb.Error, code) for code in (errno.EIO, errno.EINVAL, errno.EAGAIN, errno.EACCES, errno.EMFILE)),
    *((lmdb.DiskError, code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
]

#: What cannot fail once an object is in use, and what cleans up.
_NEVER_FAILS = {"abort", "close", "id", "key", "value", "item", "path", "fd", "flags", "max_key_size"}


class Faults:
    """Decides which call fails. Wrap what `lmdb.open` returns by `wrap`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Let all calls succeed."""
        self.calls = 0
        self.first_failing = self.last_failing = 0
        self.error: tuple[type[lmdb.Error], int] = (lmdb.Error, 0)

    def fail(self, error: tuple[type[lmdb.Error], int], call: int, last: int = 0) -> None:
        """Have a call fail, the next one being 1, or all from there to the last."""
        self.calls, self.error, self.first_failing, self.last_failing = 0, error, call, last or call

    def has_failed(self) -> bool:
        return self.calls >= self.first_failing > 0

    def open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function in place of `lmdb.open`."""

        def opened(*args: Any, **kwargs: Any) -> Any:
            self.hit()
            return _Faulty(real(*args, **kwargs), self)

        return opened

    def hit(self) -> None:
        self.calls += 1
        if self.first_failing <= self.calls <= self.last_failing:
            kind, code = self.error
            error = kind("injected")
            error.code = code
            raise error


class _Faulty:
    """An environment, a transaction or a cursor."""

    def __init__(self, real: Any, faults: Faults) -> None:
        self._real, self._faults = real, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if name not in _NEVER_FAILS:
                self._faults.hit()
            result = found(*args, **kwargs)
            return _Faulty(result, self._faults) if isinstance(result, lmdb.Transaction | lmdb.Cursor) else result

        return call

    def __iter__(self) -> Iterator[Any]:
        for item in self._real:
            self._faults.hit()
            yield item

    def __enter__(self) -> "_Faulty":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if isinstance(self._real, lmdb.Transaction):
            if kind is None:
                self.commit()
            self._real.abort()
        else:
            self._real.close()
