"""The scenarios; what users feel comes first. A module beside this one is imported, and registers its scenarios."""

from importlib import import_module
from pkgutil import iter_modules

from benchmarks import bench

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

#: The order in which scenarios run and are shown. One that is not listed comes last.
ORDER = (
    "broker", "steady", "get", "wakeups", "get_many", "chords", "commits", "store", "progress", "worker", "monitoring",
    "page", "startup", "sustained", "mixed", "checkpoint-latency", "groups", "redis", "large", "growth", "sweep",
    "disk", "memory", "idle", "plain", "bytes",
)  # fmt: skip
bench.arrange(ORDER)
