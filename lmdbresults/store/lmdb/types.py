"""Types that every layer of the engine names."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import lmdb

__all__ = ["FINAL", "INTERIM", "ONE", "SHORT_VALUE", "Change", "RunLocked", "Transaction"]

#: `WriteLock.run`: called with ``(handle, step, *args)``, returns ``step(txn, *args)``, run under LMDB's write lock.
RunLocked: TypeAlias = Callable[..., Any]

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
else:  # generic in its type stubs only
    Transaction = lmdb.Transaction

#: What subscribers get of a commit: a key, with the prefix of its store; the kind of change; the new value if it
#: is short, and when it expires.
Change: TypeAlias = tuple[bytes, int, bytes | None, float]
#: Kinds of change: to a value that is not final; any other; a topic of which one subscriber is woken.
INTERIM, FINAL, ONE = 0, 1, 2
#: Bytes of a value that is sent along. Reading a longer one in the file costs no more than sending it.
SHORT_VALUE: Final = 2048
