"""What must not grow during the soak: the records of the queues, waiters, files, and the processes that live long."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lmdbresults import LMDBStore
from lmdbresults.store import queues
from lmdbresults.store.queues import records
from lmdbresults.store.transactions import ReadTransaction

__all__ = ["grown", "of_process", "of_store"]

Figures = dict[str, float]

_KINDS: Final = {
    "owners": records.OWNER,
    "queues": records.HEAD,
    "queues that die with a process": records.OWNED,
    "bound queues": records.BOUND,
    "exchanges": records.EXCHANGE,
    "deleted queues": records.DOOMED,
    "ready messages": records.READY,
    "delayed messages": records.DELAYED,
    "unacknowledged messages": records.UNACKED,
    "large bodies": records.BODY,
}
#: What may be added without being growth, beside `_SHARE`: in absolute figures, by the end of the name.
_SLACK: Final = {
    "ready messages": 200.0,
    "delayed messages": 50.0,
    "unacknowledged messages": 50.0,
    "large bodies": 100.0,
    "records": 2000.0,
    "file, MiB": 16.0,
    "memory, MiB": 8.0,
}
_SLACK_OF_OTHERS: Final = 8.0
_SHARE: Final = 1.25


def of_store(store: LMDBStore, path: Path) -> Figures:
    """Return the figures of a store and the files beside it."""
    figures = store.view(_count)
    stats = store.stats()
    figures["records"] = stats.records
    figures["waiting processes and loops"] = stats.waiters
    figures["readers"] = stats.readers
    figures["file, MiB"] = path.stat().st_blocks * 512 / (1 << 20)
    wake = Path(f"{path}-wake")
    figures["files beside it"] = len(list(path.parent.glob(f"{path.name}-*"))) + len(list(wake.glob("*")))
    figures["side files, MiB"] = sum(_blocks(each) for each in wake.glob("*")) * 512 / (1 << 20)
    return figures


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks
    except FileNotFoundError:
        return 0


def _count(txn: ReadTransaction) -> Figures:
    counts = {kind: float(sum(1 for _ in txn.range(prefix, head=0))) for kind, prefix in _KINDS.items()}
    counts["bindings"] = float(sum(len(queues.bindings(txn, exchange)) for exchange in queues.exchanges(txn)))
    return counts


def of_process(pid: int) -> Figures:
    """Return descriptors, threads and private memory of a process; nothing if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        said = dict(line.split(":", 1) for line in lines if ":" in line)
        return {
            "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
            "threads": float(said["Threads"]),
            "memory, MiB": float(said["RssAnon"].split()[0]) / 1024,
        }
    return {}


def grown(samples: Sequence[Mapping[str, float]]) -> list[str]:
    """Return what has grown: the last quarter of the samples exceeds the second one, which follows the warming up."""
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name in samples[-1]:
        was = max((sample[name] for sample in before if name in sample), default=0.0)
        now = sorted(sample[name] for sample in after if name in sample)[quarter // 2]
        slack = next((value for end, value in _SLACK.items() if name.endswith(end)), _SLACK_OF_OTHERS)
        if now > max(was * _SHARE, was + slack):
            found.append(f"{name} grew from {was:.0f} to {now:.0f}")
    return found
