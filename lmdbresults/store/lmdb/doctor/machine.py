"""The machine: limits of this process, the platform, and versions."""

import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import lmdb

from lmdbresults.options import Options
from lmdbresults.store.findings import OK, WARNING, Finding

__all__ = ["limits", "versions"]

#: Descriptors that a worker with a few connections needs.
_FEW_FILES: Final = 256
#: Distributions whose versions matter to a reader of the report.
_NAMED: Final = ("lmdbresults", "celery", "kombu")
#: The versions of Celery that the integration is tested with: from, and below.
_FIRST_CELERY, _NO_CELERY = (5, 3), (6, 0)


def limits(options: Options) -> Iterator[Finding]:
    """Yield the limits of this process that are too low. Those of a service are its own: see ``systemctl show``."""
    files, size, memory = (
        resource.getrlimit(which)[0] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    )
    found = []
    if files != resource.RLIM_INFINITY and files < _FEW_FILES:
        found.append(Finding("limits", WARNING, f"A process may open only {files} files.", "Raise ulimit -n."))
    if size != resource.RLIM_INFINITY and size < options.max_size:
        text = f"A process may write files of {size} bytes at most, which is less than max_size."
        found.append(Finding("limits", WARNING, text, "Raise ulimit -f, or set a smaller max_size."))
    if memory != resource.RLIM_INFINITY and memory < options.max_size:
        text = f"The address space is limited to {memory} bytes, so max_size is less than {options.max_size} here."
        found.append(Finding("limits", WARNING, text, "Raise ulimit -v, or set a smaller max_size in every process."))
    yield from found or [Finding("limits", OK, f"They suffice; ulimit -n is {files}.")]


def versions() -> Iterator[Finding]:
    """Yield the versions in use here, and those that do not fit."""
    found = {name: _version(name) for name in _NAMED}
    python = f"Python {platform.python_version()}"
    engine = f"py-lmdb {lmdb.__version__} with LMDB {'.'.join(map(str, lmdb.version()))}"
    known = [f"{name} {number}" for name, number in found.items() if number]
    yield Finding(
        "versions", OK, ", ".join([*known, python, engine, f"{platform.system()} {platform.release()}"]) + "."
    )
    celery = tuple(map(int, re.findall(r"\d+", found["celery"] or "")[:2]))
    if celery and not _FIRST_CELERY <= celery < _NO_CELERY:
        text = f"Celery {found['celery']} is not a version that lmdbresults is tested with (5.3 to 5.7)."
        yield Finding("versions", WARNING, text, "pip install 'lmdbresults[celery]'")
    if sys.platform != "linux":
        text = "On systems other than Linux waiters poll, and a process killed in the middle of a write blocks others."
        cure = "Use it for development; if writers wait, stop all processes that have the file open."
        yield Finding("platform", WARNING, text, cure)
    elif sys.maxsize < 1 << 32:
        yield Finding("platform", WARNING, f"A process of {os.uname().machine} cannot map a large file.", "Use 64 bit.")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
