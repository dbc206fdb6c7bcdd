"""Results that have been read before."""

import threading
from collections import OrderedDict
from typing import Any

__all__ = ["ResultCache"]


class ResultCache(OrderedDict[str, Any]):
    """The metas that were used last, up to ``limit`` of them. -1: none, 0: any number."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        #: Guards the order, which reading changes too.
        self._lock = threading.Lock()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a meta, which is then the one that was used last, or the default."""
        with self._lock:
            if key in self:
                self.move_to_end(key)
            return super().get(key, default)

    def __setitem__(self, key: str, meta: Any) -> None:
        if self.limit == -1:
            return
        with self._lock:
            super().__setitem__(key, meta)
            self.move_to_end(key)
            while self.limit and len(self) > self.limit:
                del self[next(iter(self))]
