"""The tests that every `Store` must pass, for the stores of this package and for stores that others write.

In a test module, subclass `StoreConformance` and say how a store is made::

    class TestMyStore(StoreConformance):
        def make_store(self, clock):
            return MyStore(clock=clock)

If that takes other fixtures, override the fixture ``store`` instead. A store over a server that has a clock of its own
sleeps::

    class TestMyStore(StoreConformance):
        second = 0.2
        has_fake_clock = False

        def pass_time(self, seconds):
            time.sleep(seconds)

For readable failures put ``pytest.register_assert_rewrite("lmdbresults.testing")`` at the top of ``conftest.py``. Needs
pytest, and no Celery.

`MemoryStore` passes the tests: an example of a store, and a store to test backends with. `die_at` ends a process at one
of the steps of `lmdbresults.faultpoints`, to test that another process goes on.
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
