"""Types that every layer of the engine names."""

from typing import TYPE_CHECKING, TypeAlias

import lmdb

__all__ = ["Transaction"]

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
else:  # generic in its type stubs only
    Transaction = lmdb.Transaction
