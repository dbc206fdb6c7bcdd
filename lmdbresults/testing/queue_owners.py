"""Acting as another process, which has exited since."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from lmdbresults.process.identity import Owner
from lmdbresults.store.base import Store

__all__ = ["DEAD", "as_process"]

#: A process of an earlier boot.
DEAD: Final = Owner(4_000_000, "1", "an earlier boot")


@contextmanager
def as_process(monkeypatch: pytest.MonkeyPatch, owner: Owner) -> Iterator[None]:
    """Have every store take its messages for another process."""
    with monkeypatch.context() as patch:
        patch.setattr(Store, "owner", lambda self: owner)
        yield
