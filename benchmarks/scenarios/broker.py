"""What users feel: a client, real workers (prefork, two processes), and results, as a project uses them."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

from celery import chord

from benchmarks import measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Block, Key
from benchmarks.peers import frameworks, stacks
from benchmarks.peers.base import PATIENCE, RESULT, Peer
from benchmarks.rows import Row, with_ratios
from benchmarks.servers import ran, used_cpu, wake_ups

#: Seconds after which a killed worker's task is given up.
REDELIVERY = 5.0
#: Tasks of a chord.
CHORD = 500
#: Stacks that look for tasks once a second,
POLLING = "filesystem", "SQLite"
#: or for results: one round trip in a round is enough.
SLOW = *POLLING, "file://", "SQLite, OFF", "Redis, results in Django", "huey, SQLite"

TASKS, TRIP, CHORDS, KILLED = "tasks a second", "round trip", f"chord of {CHORD}", "redelivery after kill -9"
DRAIN = "drain"
#: Works of many tasks at once.
STREAMS = TASKS, DRAIN

Figures = dict[str, Any]


@scenario(
    "broker",
    "Celery with broker and results, beside other frameworks: send tasks while a worker runs them, and get all their "
    "results, the time is for each task; delay() to get(); a chord from its call to the result of its body; kill -9 of "
    "the worker of an acks_late task, until the task runs elsewhere; publish, for each message; drain a full queue, "
    "for each task; inspect ping; a worker with nothing to do, % of a core. CPU is that of the client or the workers, "
    "and of the server",
)
def broker(bench: Bench) -> list[Row]:
    field, clients, workers = with_workers(bench, (*stacks.EVERY, *frameworks.EVERY))
    celery = {name: client for name, client in clients.items() if isinstance(client, stacks.Stack)}
    blocks: dict[Key, Block] = {}
    for name, client in clients.items():
        blocks[Key(name, TRIP)] = partial(round_trips, client, bench.size(2, 20, 50))
        if name in celery and name not in POLLING:
            blocks[Key(name, CHORDS)] = partial(_chord, client, bench.size(5, CHORD, CHORD))
            blocks[Key(name, "inspect ping")] = partial(measure.time_each, _ping, [client] * bench.size(1, 5, 20))
    rows = field.rows(bench.interleave(blocks, bench.size(1, 5, 5), warm_up=False))
    found: dict[Key, Figures] = {}
    for work in WORKS:
        names = clients if work == TASKS else celery
        found |= _in_turns(bench, work, {name: (clients[name], workers[name]) for name in names})
    rows += with_ratios(field.table(found), _effort)
    order = [TASKS, TRIP, CHORDS, KILLED, *WORKS]
    return sorted(rows, key=lambda row: order.index(row.work) if row.work in order else len(order))


def _in_turns(bench: Bench, work: str, running: Mapping[str, tuple[Any, int]]) -> dict[Key, Figures]:
    """Measure a work with each client and worker; a stream of tasks several times, of which the median one counts."""
    rounds = bench.size(1, 1, 3) if work in STREAMS else 1
    found: dict[str, list[Figures]] = {name: [] for name in running}
    for name in chain.from_iterable(bench.rng.sample(list(running), len(running)) for _ in range(rounds)):
        bench.step(f"{work}, {name}")
        found[name].append(WORKS[work](bench, *running[name], bench.size(5, 300, 500)))
    return {
        Key(name, work): sorted(figures, key=lambda one: one.get("median", 0))[len(figures) // 2]
        for name, figures in found.items()
    }


def _effort(row: Row) -> float | None:
    """Return what the rows of a work are compared by: a stream of tasks by its pace, other work by processor time."""
    return row.median if row.work == TASKS else row.cpu or row.median


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
    _check(client, client.result(client.send(number)))


def _check(client: Any, result: Any) -> None:
    if result != RESULT:
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


# -- a stream of tasks, and processor time -----------------------------------------------------------------------------


def _tasks(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Send tasks while a worker runs them, and get all results."""
    used, start = used_cpu(worker) + client.served() + time.process_time(), time.perf_counter()
    for sent in [client.send(number) for number in range(count)]:
        _check(client, client.result(sent))
    seconds = time.perf_counter() - start
    used = used_cpu(worker) + client.served() + time.process_time() - used
    return {"median": seconds * 1e6 / count, "cpu": used * 1e6 / count, "rate": count / seconds}


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
    sent = [client.send(number) for number in range(count)]
    used, start = used_cpu(worker) + client.served(), time.perf_counter()
    os.killpg(worker, signal.SIGCONT)
    _wait(sent)
    seconds = time.perf_counter() - start
    used = used_cpu(worker) + client.served() - used
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
    seconds = bench.size(0.2, 3.0, 5.0)
    used, woken = ran(worker) + client.served(), wake_ups(worker)
    time.sleep(seconds)
    used, woken = ran(worker) + client.served() - used, wake_ups(worker) - woken
    note = f"{woken / seconds:.2g} wake-ups of the worker a second"
    return {"unit": "%", "median": used / seconds * 100, "note": note}


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def _kill(bench: Bench, client: Any, worker: int, count: int) -> Figures:
    """Kill the worker that runs a task beside one that has nothing to do; a new one takes its place."""
    times = []
    os.killpg(worker, signal.SIGKILL)
    with ExitStack() as stack:
        busy = stack.enter_context(client.worker())
        for number in range(bench.size(1, 3, 5)):
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
    TASKS: _tasks,
    "publish": _publish,
    DRAIN: _drain,
    "idle": _idle,
    KILLED: _kill,
}
