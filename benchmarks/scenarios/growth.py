"""How the cost of storing, reading and opening grows with the results that are there."""

from functools import partial
from pathlib import Path

import lmdb

from benchmarks import filling
from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key, Samples, time_each
from benchmarks.peers.base import Peer, new_ids
from benchmarks.peers.limit import FLAGS, Limit
from benchmarks.peers.plain import Plain
from benchmarks.rows import Row
from lmdbresults import open_store

#: The file of each in a folder: the same bytes to begin with.
FILES = {Plain.name: "plain.lmdb", Limit.name: "limit.lmdb"}


@scenario(
    "growth",
    "The backend without Celery, in files that hold so many results: store one, read any, and open the file, read one "
    "and close it",
    grows_with="results that are there",
)
def growth(bench: Bench) -> list[Row]:
    folders = prepare(bench, bench.size([0, 100], [0, 10_000, 200_000], [0, 10_000, 100_000, 1_000_000, 10_000_000]))
    opening = bench.interleave(_openings(folders), bench.size(2, 30, 60))
    storing = _measured(bench, {count: folder for count, folder in folders.items() if count})
    field = Field({about.name: about for about in (Plain, Limit)}, {}, {})
    return [*field.rows(storing), *field.rows(opening)]


def prepare(bench: Bench, counts: list[int]) -> dict[int, Path]:
    """Folders with the files of both: one is filled, copied at each size, and moved at the last (10 GB less)."""
    source, before, folders = bench.folder / "filled.lmdb", 0, {}
    for count in counts:
        filling.fill(source, range(before, count), step=bench.step)
        before = count
        folders[count] = bench.folder / str(count)
        folders[count].mkdir()
        if not source.exists():
            open_store(source, durability="none").close()
        filling.copy(source, folders[count] / FILES[Plain.name])
        (filling.move if count == counts[-1] else filling.copy)(source, folders[count] / FILES[Limit.name])
    return folders


def _measured(bench: Bench, folders: dict[int, Path]) -> Samples:
    peers: dict[tuple[str, int], Peer] = {}
    for count, folder in folders.items():
        peers[Plain.name, count], peers[Limit.name, count] = Plain(folder), Limit(folder)
    storing = {Key(name, "store", count): partial(_store, bench, peer) for (name, count), peer in peers.items()}
    reading = {Key(name, "get", count): partial(_get, bench, peer, count) for (name, count), peer in peers.items()}
    samples = bench.interleave({**storing, **reading}, bench.size(2, 30, 100))
    for peer in peers.values():
        peer.close()
    return samples


def _store(bench: Bench, peer: Peer) -> list[int]:
    requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer), bench.rng)]
    return time_each(peer.store, requests)


def _get(bench: Bench, peer: Peer, count: int) -> list[int]:
    """Any of those that are there."""
    numbers = bench.rng.choices(range(count), k=bench.operations(peer))
    return time_each(peer.get, map(filling.random_id, numbers))


def _openings(folders: dict[int, Path]) -> dict[Key, partial[list[int]]]:
    openers = {Plain.name: _open_ours, Limit.name: _open_bare}
    return {
        Key(name, "open", count): partial(time_each, openers[name], [folder / FILES[name]] * 10)
        for count, folder in folders.items()
        for name in openers
    }


def _open_ours(path: Path) -> None:
    with open_store(path, durability="none") as store:
        store.get(b"no such result")


def _open_bare(path: Path) -> None:
    with lmdb.open(str(path), sync=False, metasync=False, **FLAGS) as environment, environment.begin() as transaction:
        transaction.get(b"no such result")
