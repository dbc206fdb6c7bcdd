"""Results that have been read before."""

from collections import OrderedDict
from typing import Any

from lmdbresults.metas import id_text

__all__ = ["ResultCache"]


class ResultCache:
    """The metas that were used last, by id, up to ``limit`` of them. -1: none, 0: any number.

    It has no lock, which a fork in another thread could leave taken for ever: each step is one that is atomic, and
    none minds that another thread has come in between.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._metas: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._metas)

    def __contains__(self, id_: object) -> bool:
        return id_text(id_) in self._metas

    def get(self, id_: object) -> Any:
        """Return a meta, which is then the one that was used last, or None."""
        id_ = id_ if type(id_) is str else id_text(id_)
        if id_ not in self._metas:
            return None
        try:
            self._metas.move_to_end(id_)
            return self._metas[id_]
        except KeyError:  # another thread has dropped it
            return None

    def __setitem__(self, id_: object, meta: Any) -> None:
        if self.limit == -1:
            return
        id_, metas = id_ if type(id_) is str else id_text(id_), self._metas
        metas.pop(id_, None)  # so that it goes to the end
        metas[id_] = meta
        while self.limit and len(metas) > self.limit:
            self._drop_the_oldest()

    def _drop_the_oldest(self) -> None:
        try:
            self._metas.popitem(last=False)
        except KeyError:  # another thread was faster
            return

    def discard(self, id_: object) -> None:
        """Drop a meta, if it is there."""
        self._metas.pop(id_text(id_), None)

    def clear(self) -> None:
        """Drop all."""
        self._metas.clear()
