"""How costs grow with the number of results, and what results and peers take on disk and in memory."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import lmdb

from benchmarks import filling
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key, Samples, disk_usage, time_each
from benchmarks.peers import bare, celery, plain
from benchmarks.peers.base import Client, Peer, stored
from benchmarks.rows import BARE, MEMORY, OWN, Row, with_ratios
from benchmarks.scenarios.one_result import store_new
from lmdbresults import open_store

# -- growth ------------------------------------------------------------------------------------------------------------

#: The file of each peer in a folder; both begin with the same bytes.
FILES = {OWN: "plain.lmdb", BARE: "bare.lmdb"}


@scenario(
    "growth",
    "The backend without Celery, in files with so many results: store one; read any; open the file, read one, close it",
    grows_with="present results",
)
def growth(bench: Bench) -> list[Row]:
    counts = bench.size(
        [0, 100], [0, 10_000, 200_000], [0, 10_000, 100_000, 1_000_000], [0, 10_000, 100_000, 1_000_000, 10_000_000]
    )
    folders = _prepare(bench, counts)
    opening = bench.interleave(_openings(folders), bench.size(2, 30, 30))
    using = _stores_and_reads(bench, {count: folder for count, folder in folders.items() if count})
    field = Field({OWN: plain.NONE, BARE: bare.NONE})
    return [*field.rows(using), *field.rows(opening)]


def _prepare(bench: Bench, counts: list[int]) -> dict[int, Path]:
    """Create the files of both peers. One file is filled and copied at each size; moving the last saves 10 GB."""
    source, before, folders = bench.folder / "filled.lmdb", 0, {}
    open_store(source, durability="none").close()
    for count in counts:
        filling.fill_file(source, range(before, count), bench.step)
        before = count
        folders[count] = bench.folder / str(count)
        folders[count].mkdir()
        filling.copy(source, folders[count] / FILES[OWN])
        (filling.move if count == counts[-1] else filling.copy)(source, folders[count] / FILES[BARE])
    return folders


def _stores_and_reads(bench: Bench, folders: dict[int, Path]) -> Samples:
    clients: dict[tuple[str, int], Client] = {}
    for count, folder in folders.items():
        clients[OWN, count], clients[BARE, count] = plain.NONE.open(folder), bare.NONE.open(folder)
    storing = {
        Key(name, "store", count): partial(store_new, bench, client) for (name, count), client in clients.items()
    }
    reading = {
        Key(name, "get", count): partial(_get, bench, client, count) for (name, count), client in clients.items()
    }
    samples = bench.interleave({**storing, **reading}, bench.size(2, 30, 40))
    for client in clients.values():
        client.close()
    return samples


def _get(bench: Bench, client: Client, count: int) -> list[int]:
    numbers = bench.rng.choices(range(count), k=bench.operations(client.about))
    return time_each(client.get, map(filling.random_id, numbers))


def _openings(folders: dict[int, Path]) -> dict[Key, partial[list[int]]]:
    openers: dict[str, Callable[[Path], None]] = {OWN: _open_store, BARE: _open_bare}
    return {
        Key(name, "open", count): partial(time_each, openers[name], [folder / FILES[name]] * 10)
        for count, folder in folders.items()
        for name in openers
    }


def _open_store(path: Path) -> None:
    with open_store(path, durability="none") as store:
        store.get(b"no such result")


def _open_bare(path: Path) -> None:
    with (
        lmdb.open(str(path), sync=False, metasync=False, **bare.FLAGS) as environment,
        environment.begin() as transaction,
    ):
        transaction.get(b"no such result")


# -- disk and memory ---------------------------------------------------------------------------------------------------


@scenario("disk", "Celery's backend classes: bytes on disk per result, after storing so many", grows_with="results")
def disk(bench: Bench) -> list[Row]:
    count = bench.size(20, 2_000, 20_000)
    field = bench.open((celery.NONE, celery.REDIS, celery.REDIS_EVERYSEC, celery.FILES, celery.SQLITE_OFF, bare.NONE))
    figures = {}
    for name, client in field.clients.items():
        bench.step(name)
        is_in_memory = client.about is celery.REDIS
        before = _server_memory(client) if is_in_memory else 0
        stored(client, count, bench.rng)
        size = _server_memory(client) - before if is_in_memory else disk_usage(client.folder)
        note = "in the memory of the server" if is_in_memory else ""
        figures[Key(name, "size", count)] = {"unit": "B", "median": size / count, "note": note}
    return with_ratios(field.table(figures), lambda row: row.median, alike=True)


def _server_memory(client: Any) -> int:
    return int(client.backend.client.info("memory")["used_memory"])


class NoBackend(celery.Backend):
    """The memory of a process that has imported Celery and created a backend."""

    @classmethod
    def url(cls, folder: Path, **_: Any) -> str:
        return "disabled://"

    def get(self, task_id: str) -> None:
        """Return None: nothing is stored."""


NO_BACKEND = Peer(name="no backend", configuration="disabled://", durability=MEMORY, client=NoBackend)


@scenario(
    "memory",
    "Celery's backend classes: MiB that a process takes more than one with disabled://, after storing and reading; its "
    "private memory, and with the pages of mapped files",
)
def memory(bench: Bench) -> list[Row]:
    field = bench.serve((*bench.few(celery.KINDS), NO_BACKEND))
    count = bench.size(10, 1_000, 3_000)
    crews = {name: Crew(bench, 1) for name in field.folders}  # a new process for each
    taken = {name: crew.run(1, memory_after_work, field, name, count)[0] for name, crew in crews.items()}
    figures = {
        Key(name, work): {"unit": "MiB", "median": taken[name][work] - taken[NO_BACKEND.name][work]}
        for work in ("Anonymous", "Rss")
        for name in taken
        if name != NO_BACKEND.name
    }
    return with_ratios(field.table(figures), lambda row: row.median, alike=True)


def memory_after_work(client: Client, number: int, count: int) -> dict[str, float]:
    """Return MiB by their names in /proc."""
    for task_id in stored(client, count, Random(number)):
        client.get(task_id)
    found = re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return {name: int(kilobytes) / 1024 for name, kilobytes in found}
