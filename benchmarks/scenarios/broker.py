"""Brokers: a client, real Celery workers (prefork, two processes), and the results, as a project uses them."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from celery import chord

from benchmarks import measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Block, Key
from benchmarks.peers import stacks
from benchmarks.peers.base import RESULT, Peer
from benchmarks.rows import Row, with_ratios
from benchmarks.servers import used_cpu, wake_ups

PATIENCE = 60.0
#: Seconds after which a killed worker's task is given up.
REDELIVERY = 5.0
#: Tasks of a chord.
CHORD = 500
#: Stacks that look for tasks once a second,
POLLING = "filesystem", "SQLite"
#: or for results.
SLOW = *POLLING, "file://", "SQLite, OFF"


@scenario(
    "broker",
    "Celery with a broker and results: delay() to get(); a chord; inspect ping; publish, for each message; drain a "
    "full queue, and end to end, for each task; a worker with nothing to do, % of a core; kill -9 of the worker of "
    "an acks_late task, until the task runs elsewhere. CPU is that of the client or the workers, and of the server",
)
def broker(bench: Bench) -> list[Row]:
    field, clients, workers = with_workers(bench, stacks.EVERY)
    count = bench.size(5, 300, 1_000)
    blocks: dict[Key, Block] = {}
    for name, client in clients.items():
        blocks[Key(name, "delay() to get()")] = partial(round_trips, client, bench.size(2, 20, 50))
        if name not in POLLING:
            size = bench.size(5, CHORD, CHORD)
            blocks[Key(name, f"chord of {size}")] = partial(_chord, client, size)
            blocks[Key(name, "inspect ping")] = partial(measure.time_each, _ping, [client] * bench.size(1, 5, 20))
    rows = field.rows(bench.interleave(blocks, bench.size(1, 5, 20), warm_up=False))
    found: dict[Key, dict[str, Any]] = {}
    for work, measured in WORKS.items():
        for name in bench.rng.sample(list(clients), len(clients)):
            bench.step(f"{work}, {name}")
            found[Key(name, work)] = measured(bench, clients[name], workers[name], count)
    ordered = {Key(name, work): found[Key(name, work)] for work in WORKS for name in clients}
    return rows + with_ratios(field.table(ordered), lambda row: row.cpu or row.median)


def with_workers(bench: Bench, peers: Iterable[Peer]) -> tuple[Field, dict[str, Any], dict[str, int]]:
    """Start a worker for each stack; return the clients and the process ids of the workers, by name."""
    field, workers = bench.serve(bench.few(peers)), {}
    clients = {name: field.peers[name].open(folder) for name, folder in field.folders.items()}
    for name, client in clients.items():
        bench.step(f"starting {name}")
        workers[name] = bench.stack.enter_context(client.worker())
        _round_trip(client, 0)
    return field, clients, workers


def _round_trip(client: Any, number: int) -> None:
    if client.app.tasks["answer"].delay(number).get(timeout=PATIENCE) != RESULT:
        raise RuntimeError(f"{client.about.name}: the client did not get what the task returned")


def round_trips(client: Any, count: int) -> list[int]:
    """Send tasks and wait for the result of each."""
    count = 1 if client.about.name in SLOW else count
    return measure.time_each(partial(_round_trip, client), range(count))


def _chord(client: Any, size: int) -> list[int]:
    tasks = client.app.tasks
    start = time.perf_counter_ns()
    found = chord(tasks["answer"].s(number) for number in range(size))(tasks["count"].s()).get(timeout=PATIENCE)
    took = time.perf_counter_ns() - start
    if found != size:
        raise RuntimeError(f"{client.about.name}: the chord had {found} results of {size}")
    return [took]


def _ping(client: Any) -> None:
    if not client.app.control.inspect(timeout=5.0, limit=1).ping():
        raise RuntimeError(f"{client.about.name}: no worker answered")


# -- processor time ----------------------------------------------------------------------------------------------------

Figures = dict[str, Any]


def _publish(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Send tasks to a queue that no worker has."""
    with client.app.connection_for_write() as connection, connection.channel() as channel:
        answer, served, start = client.app.tasks["answer"], client.served(), time.process_time()
        times = measure.time_each(lambda number: answer.apply_async((number,), queue=stacks.PARKED), range(count))
        used = time.process_time() - start + client.served() - served
        channel.queue_purge(stacks.PARKED)
    return {**measure.summary([times]), "cpu": used * 1e6 / count}


def _drain(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Send tasks to a worker that is stopped, and let it go on."""
    os.killpg(worker, signal.SIGSTOP)
    sent = [client.app.tasks["answer"].delay(number) for number in range(count)]
    used, start = used_cpu(worker) + client.served(), time.perf_counter()
    os.killpg(worker, signal.SIGCONT)
    _wait(sent)
    seconds = time.perf_counter() - start
    used = used_cpu(worker) + client.served() - used
    return {"median": seconds * 1e6 / count, "cpu": used * 1e6 / count, "rate": count / seconds}


def _end_to_end(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Send tasks while a worker runs them, and wait for the last."""
    used, start = used_cpu(worker) + client.served() + time.process_time(), time.perf_counter()
    _wait([client.app.tasks["answer"].delay(number) for number in range(count)])
    seconds = time.perf_counter() - start
    used = used_cpu(worker) + client.served() + time.process_time() - used
    return {"median": seconds * 1e6 / count, "cpu": used * 1e6 / count, "rate": count / seconds}


def _wait(sent: list[Any]) -> None:
    """Return once all results are there. They arrive about in order, so most are found at the first look."""
    for result in reversed(sent):
        until = time.monotonic() + PATIENCE
        while result.backend.get_task_meta(result.id, cache=False)["status"] != "SUCCESS":
            if time.monotonic() > until:
                raise RuntimeError("a task has no result")
            time.sleep(0.005)


def _idle(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Leave a worker alone."""
    seconds = bench.size(0.2, 5.0, 30.0)
    used, woken = used_cpu(worker) + client.served(), wake_ups(worker)
    time.sleep(seconds)
    used, woken = used_cpu(worker) + client.served() - used, wake_ups(worker) - woken
    note = f"{woken / seconds:.2g} wake-ups of the worker a second"
    return {"unit": "%", "median": used / seconds * 100, "note": note}


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def _kill(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Kill the worker that runs a task beside one that has nothing to do; a new one takes its place."""
    times = []
    os.killpg(worker, signal.SIGKILL)
    with ExitStack() as stack:
        busy = stack.enter_context(client.worker())
        for number in range(bench.size(1, 5, 30)):
            path = client.folder / f"held-{number}"
            client.app.tasks["hold"].delay(str(path))
            stacks.wait_for(path)
            idle = stack.enter_context(client.worker())
            killed = time.monotonic_ns()
            os.killpg(busy, signal.SIGKILL)
            while len(starts := path.read_text().split()) < 2:
                if time.monotonic_ns() - killed > REDELIVERY * 1e9:
                    return {"missing": f"not within {REDELIVERY:.0f} s"}
                time.sleep(0.001)
            times.append(int(starts[1]) - killed)
            busy = idle
    return measure.summary([times])


WORKS: dict[str, Callable[[Bench, Any, int, int], Figures]] = {
    "publish": _publish,
    "drain": _drain,
    "end to end": _end_to_end,
    "idle": _idle,
    "kill -9": _kill,
}
