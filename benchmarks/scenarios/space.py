"""What results take on disk, and what a peer takes in the memory of each process."""

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.peers import celery
from benchmarks.peers.base import Peer, stored
from benchmarks.peers.limit import Limit
from benchmarks.rows import LIMIT, OURS, Row
from benchmarks.scenarios.sustained import used


class Nothing(celery.CeleryPeer):
    """What every process has that has imported Celery and made a backend."""

    name = "no backend"
    configuration = "disabled://"

    @classmethod
    def url(cls, folder: Path) -> str:
        return "disabled://"

    def get(self, task_id: str) -> None:
        """Nothing is there."""


@scenario("disk", "Celery's backend classes: bytes on disk a result, after so many were stored", grows_with="results")
def disk(bench: Bench) -> list[Row]:
    count = bench.size(20, 2_000, 50_000)
    field = bench.open((celery.Ours, celery.Redis, celery.RedisEverysec, celery.Files, celery.SQLiteOff, Limit))
    rows = [field.row(name, "size", count, missing=why) for name, why in field.missing.items()]
    for name, peer in field.peers.items():
        bench.step(name)
        is_in_memory = type(peer) is celery.Redis
        before = _server_memory(peer) if is_in_memory else 0
        stored(peer, count, bench.rng)
        size = _server_memory(peer) - before if is_in_memory else used(field.folders[name])
        note = "in the memory of the server" if is_in_memory else ""
        rows.append(field.row(name, "size", count, unit="B", median=size / count, note=note))
    return _with_ratios(rows)


def _server_memory(peer: Any) -> int:
    return int(peer.backend.client.info("memory")["used_memory"])


@scenario(
    "memory",
    "Celery's backend classes: MiB that a process takes beyond one with disabled://, after storing and reading; its "
    "own, and with the pages of files that are mapped",
)
def memory(bench: Bench) -> list[Row]:
    field = bench.serve((*bench.few(celery.KINDS), Nothing))
    count = bench.size(10, 1_000, 5_000)
    crews = {name: Crew(bench, 1) for name in field.folders}  # a new process each
    taken = {name: crew.run(1, memory_after_work, field, name, count)[0] for name, crew in crews.items()}
    rows = []
    for work in ("Anonymous", "Rss"):
        for name in field.classes:
            if name in field.missing:
                rows.append(field.row(name, work, missing=field.missing[name]))
            elif name != Nothing.name:
                rows.append(field.row(name, work, unit="MiB", median=taken[name][work] - taken[Nothing.name][work]))
    return _with_ratios(rows)


def memory_after_work(peer: Peer, number: int, count: int) -> dict[str, float]:
    """MiB by their names in /proc."""
    for task_id in stored(peer, count, Random(number)):
        peer.get(task_id)
    told = re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return {name: int(kilobytes) / 1024 for name, kilobytes in told}


def _with_ratios(rows: list[Row]) -> list[Row]:
    """Against ours and the limit, for whatever is not a time."""

    def against(row: Row, other: str) -> float | None:
        found = next((one.median for one in rows if one.peer == other and one.work == row.work), None)
        return row.median / found if row.median and found and found > 0 else None

    return [replace(row, to_ours=against(row, OURS), to_limit=against(row, LIMIT)) for row in rows]
