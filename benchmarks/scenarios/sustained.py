"""Stores a second for as long as asked, with what a power cut may take and what the files grow by beside it."""

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import Peer
from benchmarks.peers.limit import Limit, LimitCommit
from benchmarks.rows import LIMIT_ROW, OUR_ROW, Row

CLASSES = (
    celery.OursCheckpoint,
    celery.Ours,
    celery.OursCommit,
    celery.RedisDefault,
    celery.RedisEverysec,
    celery.RedisAlways,
    celery.Files,
    celery.SQLite,
    celery.SQLiteFull,
    Limit,
    LimitCommit,
)
#: Times that a process sends back, evenly chosen.
SAMPLES = 20_000


class Flood(NamedTuple):
    """What one process has done."""

    stored: int
    seconds: float
    slowest: int
    times: list[int]


@scenario(
    "sustained",
    "Celery's backend classes: how many new results a second are stored for so long without a pause, by all processes "
    "together",
    grows_with="processes",
)
def sustained(bench: Bench) -> list[Row]:
    field = bench.serve(bench.few(CLASSES))
    sizes = bench.size([1, 2], [1, 4], [1, 4])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.1, 1.5, 30.0)
    keys = [Key(name, "store", size) for size in sizes for name in field.folders]
    found: dict[Key, Row] = {}
    for key in bench.steps(bench.rng.sample(keys, len(keys)), "peer"):
        before = used(field.folders[key.peer])
        floods = crew.run(int(key.x or 1), flood, field, key.peer, bench.rng.getrandbits(32), seconds)
        found[key] = _row(field, key, floods, used(field.folders[key.peer]) - before)
    missing = [field.row(name, "", missing=why) for name, why in field.missing.items()]
    return [_with_ratios(found[key], found) for key in keys] + missing


def flood(peer: Peer, number: int, seed: int, seconds: float) -> Flood:
    """Store new results for so long. One request serves for all, as making one takes as long as storing."""
    draw, store, rename = Random(seed + number).getrandbits, peer.store, peer.renamed
    request, times, clock = peer.request("0"), array("q"), time.perf_counter_ns
    began = clock()
    end = began + int(seconds * 1e9)
    now = began
    while now < end:
        request = rename(request, f"{draw(128):032x}")
        start = clock()
        store(request)
        now = clock()
        times.append(now - start)
    chosen = times[:: len(times) // SAMPLES + 1]
    return Flood(len(times), (now - began) / 1e9, max(times), list(chosen))


def used(folder: Path) -> int:
    """Bytes on disk of all files below."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _row(field: Field, key: Key, floods: Sequence[Flood], growth: int) -> Row:
    stored = sum(flood.stored for flood in floods)
    figures: dict[str, Any] = measure.summary([list(chain.from_iterable(flood.times for flood in floods))])
    figures["maximum"] = max(flood.slowest for flood in floods) / 1000
    figures["rate"] = sum(flood.stored / flood.seconds for flood in floods)
    seconds = max(flood.seconds for flood in floods)
    note = f"files +{growth / 1e6:,.0f} MB in {seconds:.2g} s, {growth / stored:,.0f} B each"
    return field.row(key.peer, key.work, key.x, **figures, loss=field.classes[key.peer].loss, note=note)


def _with_ratios(row: Row, found: Mapping[Key, Row]) -> Row:
    def against(other: str) -> float | None:
        reference = found.get(Key(other, row.work, row.x))
        return reference.rate / row.rate if reference and reference.rate and row.rate else None

    return replace(row, to_ours=against(OUR_ROW[row.durability]), to_limit=against(LIMIT_ROW[row.durability]))
