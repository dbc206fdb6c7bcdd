"""The scenarios, in the order in which they run. Importing a module registers its scenarios."""

# isort: off
from benchmarks.scenarios import steady  # noqa: F401
from benchmarks.scenarios import one_result  # noqa: F401
from benchmarks.scenarios import many_results  # noqa: F401
from benchmarks.scenarios import wakeups  # noqa: F401
from benchmarks.scenarios import chords  # noqa: F401
from benchmarks.scenarios import processes  # noqa: F401
from benchmarks.scenarios import sweep  # noqa: F401
from benchmarks.scenarios import sizes  # noqa: F401
from benchmarks.scenarios import broker  # noqa: F401
from benchmarks.scenarios import worker  # noqa: F401
