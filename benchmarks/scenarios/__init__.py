"""The scenarios, in the order in which they are run and shown. Importing a module registers what is in it."""

# isort: off
from benchmarks.scenarios import one_result  # noqa: F401
from benchmarks.scenarios import plain  # noqa: F401
from benchmarks.scenarios import mixed  # noqa: F401
from benchmarks.scenarios import large  # noqa: F401
from benchmarks.scenarios import many  # noqa: F401
from benchmarks.scenarios import groups  # noqa: F401
from benchmarks.scenarios import wakeups  # noqa: F401
from benchmarks.scenarios import chords  # noqa: F401
from benchmarks.scenarios import sustained  # noqa: F401
from benchmarks.scenarios import checkpoints  # noqa: F401
from benchmarks.scenarios import sweep  # noqa: F401
from benchmarks.scenarios import space  # noqa: F401
from benchmarks.scenarios import growth  # noqa: F401
from benchmarks.scenarios import worker  # noqa: F401
