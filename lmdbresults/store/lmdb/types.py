"""Types that every layer of the engine names."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb

__all__ = ["AcquireWriter", "Transaction"]

#: Returns the context manager in which to ask LMDB for its write lock.
AcquireWriter: TypeAlias = Callable[[], AbstractContextManager[Any]]

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
else:  # generic in its type stubs only
    Transaction = lmdb.Transaction
