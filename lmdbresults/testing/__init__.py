"""The tests that every `Store` has to pass: for the stores of this package, and for whoever writes another one.

And a store in memory, which passes them: to test backends over, and to see what a store has to do.

In a test module, subclass `StoreConformance` and say how a store is made::

    class TestMyStore(StoreConformance):
        def make_store(self, clock):
            return MyStore(clock=clock)

Where that takes other fixtures, override the fixture ``store`` instead. For readable failures put
``pytest.register_assert_rewrite("lmdbresults.testing")`` at the top of ``conftest.py``. Needs pytest, and no Celery.

`die_at` ends a process at one of the steps of `lmdbresults.faultpoints`, to see that another one goes on.
"""

try:
    from lmdbresults.testing.conformance import StoreConformance
except ModuleNotFoundError as error:
    if error.name != "pytest":
        raise
    raise ImportError("lmdbresults.testing needs pytest: pip install pytest") from error
from lmdbresults.store.memory import MemoryStore
from lmdbresults.testing.clock import FakeClock
from lmdbresults.testing.faults import DIE_AT, DIE_FLAG, die_as_told, die_at
from lmdbresults.testing.samples import KEY_LENGTHS, SIZES, sample

__all__ = [
    "DIE_AT",
    "DIE_FLAG",
    "KEY_LENGTHS",
    "SIZES",
    "FakeClock",
    "MemoryStore",
    "StoreConformance",
    "die_as_told",
    "die_at",
    "sample",
]
