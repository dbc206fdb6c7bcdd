"""Figures about the tasks of a store, in one pass over the heads of their records."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from heapq import heappushpop
from struct import error as StructError  # noqa: N812 - it is a class
from struct import pack
from typing import Final, NamedTuple

import msgpack

from lmdbresults import states
from lmdbresults.monitoring.heads import UNREADABLE, Entry, Layout, Unusual, bytes_of_text, offset_of, pass_over, utc
from lmdbresults.monitoring.tasks import exception_in, read_record
from lmdbresults.monitoring.values import Bucket, FailureFigures, NameFigures, Runtime, WorkerFigures
from lmdbresults.record import TaskRecord, runtime_in
from lmdbresults.store.base import Store

__all__ = ["TaskFigures", "task_figures"]

_MINUTE, _QUARTER = timedelta(minutes=1), timedelta(minutes=15)
_MINUTES, _QUARTERS = 60, 96
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: The most names, failures and workers that are listed, and that are counted.
_MOST_LISTED, _MOST_COUNTED = 100, 10_000
#: Failures whose traceback is read, which takes as long as counting ten tasks.
_MOST_TRACEBACKS: Final = 50_000
#: How the exception of another failure is called.
_NOT_READ: Final = "(not read)"
_NEVER: Final = bytes(8)
#: The most run times of a name and worker that are kept, and of the slowest tasks.
_MOST_RUNTIMES, _MOST_SLOW = 2000, 20


class TaskFigures(NamedTuple):
    """What one pass has found."""

    states: Counter[str]
    hour: list[Bucket]
    day: list[Bucket]
    names: list[NameFigures]
    failures: list[FailureFigures]
    slowest: list[str]
    """Ids."""
    workers: list[WorkerFigures]


def task_figures(store: Store, prefix: bytes) -> TaskFigures:
    """Return figures about the tasks whose keys begin with ``prefix``."""
    layout = Layout(store)
    found = _Figures(layout, layout.key_at + len(prefix), lambda id_: read_record(store, prefix + id_))
    pass_over(store, prefix, layout, found)
    now, ended, totals = datetime.fromtimestamp(layout.now, timezone.utc), list(found.ended()), Counter[str]()
    for _, state, count in ended:
        totals[state] += count
    names, workers = found.names_and_workers()
    hour, day = _buckets(ended, now, _MINUTE, _MINUTES), _buckets(ended, now, _QUARTER, _QUARTERS)
    return TaskFigures(totals, hour, day, names, found.failures(), found.slowest(), workers)


def _buckets(ended: list[tuple[datetime | None, str, int]], now: datetime, span: timedelta, count: int) -> list[Bucket]:
    end = now - (now - _EPOCH) % span + span
    begin = end - count * span
    counts = [Counter[str]() for _ in range(count)]
    for minute, state, tasks in ended:
        if minute is not None and begin <= minute < end:
            counts[(minute - begin) // span][state] += tasks
    return [Bucket(begin + number * span, dict(each)) for number, each in enumerate(counts)]


class _Call:
    """The tasks of one name that one worker has run."""

    __slots__ = ("count", "failures", "last", "longest", "runtimes", "stride", "timed")

    def __init__(self) -> None:
        self.count = self.failures = self.timed = 0
        #: Run times of every so many tasks, in seconds; and the longest of all.
        self.runtimes: list[float] = []
        self.stride = 1
        self.longest = 0.0
        #: The largest local time, as text. The processes of a worker share a zone.
        self.last = b""

    def add_runtime(self, runtime: float) -> None:
        """Count a run time, and keep it if it is its turn."""
        self.timed += 1
        if runtime > self.longest:
            self.longest = runtime
        if self.timed % self.stride == 0:
            self.runtimes.append(runtime)
            if len(self.runtimes) > _MOST_RUNTIMES:
                del self.runtimes[::2]
                self.stride *= 2


class _Minutes(dict[bytes, dict[bytes, int]]):
    """Counts, by the offset of a zone."""

    def __missing__(self, zone: bytes) -> dict[bytes, int]:
        offset_of(zone)  # raises ValueError if it is none
        counts: dict[bytes, int] = defaultdict(int)
        self[zone] = counts
        return counts


class _Figures:
    """Counts tasks. See `heads.Visitor`."""

    def __init__(self, layout: Layout, id_at: int, read: Callable[[bytes], TaskRecord | None]) -> None:
        self._layout = layout
        self._id_at = id_at
        #: Returns the record of a task by its id.
        self._read = read
        #: By mark and minute.
        self._minutes = _Minutes()
        #: By name and worker, packed as they follow each other in a record; and by the zone of the worker.
        self._calls: dict[tuple[bytes, bytes], _Call] = defaultdict(_Call)
        self._failures: dict[tuple[str | None, str], tuple[int, datetime]] = {}
        self._tracebacks_left = _MOST_TRACEBACKS
        #: A heap of the slowest tasks: run time, and place.
        self._slow: list[tuple[float, bytes]] = [(0.0, b"")] * _MOST_SLOW
        self._others = Counter[tuple[datetime | None, str]]()

    def visit(self, entries: Iterable[Entry]) -> list[Entry]:
        """Count the usual entries."""
        layout, minutes, calls = self._layout, self._minutes, self._calls
        unpack, marks, deadline, now = layout.unpack, layout.states, layout.deadline, pack(">d", layout.now)
        minute, call_at = slice(layout.mark.start, layout.time.start + 16), layout.zone.stop
        unusual: list[Entry] = []
        for entry in entries:
            data = entry[1]
            try:
                mark, time, zone = unpack(data)
                if mark not in marks:
                    unusual.append(entry)
                    continue
                if _NEVER < data[deadline] <= now:
                    continue
                counts = minutes[zone]
                # The ends of two texts, written out for speed: a fifth of the pass.
                first = data[call_at]
                end = call_at + (first - 0x9F if 0x9F < first < 0xC0 else bytes_of_text(data, call_at))
                first = data[end]
                end += first - 0x9F if 0x9F < first < 0xC0 else bytes_of_text(data, end)
            except (StructError, IndexError, ValueError):
                unusual.append(entry)
                continue
            counts[data[minute]] += 1
            call = calls[data[call_at:end], zone]
            call.count += 1
            if time > call.last:
                call.last = time
            runtime = runtime_in(data)
            if runtime is not None:
                call.add_runtime(runtime)
                if runtime > self._slow[0][0]:
                    heappushpop(self._slow, (runtime, entry[0]))
            if marks[mark] != states.SUCCESS:
                call.failures += 1
                ended = _moment(time, zone) or _EPOCH
                self._count_failure(ended, partial(TaskRecord.unpack, data[layout.value_at :]))
        self._bound()
        return unusual

    def meet(self, record: Unusual) -> None:
        """Count an unusual record."""
        state, _, name, worker, *_ = record.head
        minute = None if record.ended is None else record.ended.replace(second=0, microsecond=0)
        self._others[minute, state] += 1
        if record.ended is not None:
            call = self._calls[msgpack.packb(name) + msgpack.packb(worker), b"+00:00"]
            call.count += 1
            call.last = max(call.last, record.ended.isoformat(timespec="microseconds")[:26].encode())
            call.failures += state in states.PROPAGATE_STATES
            if state in states.PROPAGATE_STATES:
                self._count_failure(record.ended, partial(self._read, record.id))

    def _count_failure(self, ended: datetime, read: Callable[[], TaskRecord | None]) -> None:
        self._tracebacks_left -= 1
        try:
            record = read() if self._tracebacks_left >= 0 else None
        except UNREADABLE:
            return
        name, exception = None, _NOT_READ
        if record is not None:
            name, exception = record.name, exception_in(record.traceback) or record.state
        count, last = self._failures.get((name, exception), (0, ended))
        self._failures[name, exception] = count + 1, max(last, ended)

    def _bound(self) -> None:
        """Keep what is most frequent if there are too many different names, workers or failures."""
        if len(self._calls) > 2 * _MOST_COUNTED:
            best = sorted(self._calls.items(), key=lambda item: -item[1].count)
            self._calls = defaultdict(_Call, best[:_MOST_COUNTED])
        if len(self._failures) > 2 * _MOST_COUNTED:
            self._failures = dict(sorted(self._failures.items(), key=lambda item: -item[1][0])[:_MOST_COUNTED])

    # -- what was found ------------------------------------------------------------------------------------------------

    def ended(self) -> Iterator[tuple[datetime | None, str, int]]:
        """Yield minute (None: not ended), state, and how many tasks."""
        for (minute, state), count in self._others.items():
            yield minute, state, count
        for zone, counts in self._minutes.items():
            for key, count in counts.items():
                yield _moment(key[-16:], zone), self._layout.states[key[:-16]], count

    def names_and_workers(self) -> tuple[list[NameFigures], list[WorkerFigures]]:
        """Return the figures of names, and of workers."""
        names: dict[str | None, Counter[str]] = defaultdict(Counter)
        workers: dict[str, WorkerFigures] = {}
        calls: dict[str | None, list[_Call]] = defaultdict(list)
        for (packed, zone), call in self._calls.items():
            name, worker = _texts(packed)
            calls[name].append(call)
            names[name].update(count=call.count, failures=call.failures)
            if worker is not None:
                last = _moment(call.last, zone) or _EPOCH
                known = workers.get(worker, WorkerFigures(worker, 0, 0, last))
                count, failures = known.count + call.count, known.failures + call.failures
                workers[worker] = WorkerFigures(worker, count, failures, max(last, known.last))
        by_name = [
            NameFigures(name, each["count"], each["failures"], _distribution(calls[name]))
            for name, each in names.items()
        ]
        by_name.sort(key=lambda each: -each.count)
        by_worker = sorted(workers.values(), key=lambda each: each.last, reverse=True)
        return by_name[:_MOST_LISTED], by_worker[:_MOST_LISTED]

    def slowest(self) -> list[str]:
        """Return the ids of the slowest tasks, the slowest first."""
        places = [place for _, place in sorted(self._slow, reverse=True) if place]
        return [place[self._id_at :].decode(errors="replace") for place in places]

    def failures(self) -> list[FailureFigures]:
        """Return the figures of failures."""
        found = [FailureFigures(*key, count, last) for key, (count, last) in self._failures.items()]
        return sorted(found, key=lambda each: -each.count)[:_MOST_LISTED]


def _distribution(calls: list[_Call]) -> Runtime | None:
    """Return the distribution of the run times of one name, each sample as often as it stands for."""
    samples = sorted((runtime, call.stride) for call in calls for runtime in call.runtimes)
    if not samples:
        return None
    total = sum(stride for _, stride in samples)

    def percentile(share: float) -> float:
        left = share * total
        for runtime, stride in samples:
            left -= stride
            if left <= 0:
                return runtime
        return samples[-1][0]

    count, longest = sum(call.timed for call in calls), max(call.longest for call in calls)
    return Runtime(count, percentile(0.5), percentile(0.9), percentile(0.99), longest)


def _moment(time: bytes, zone: bytes) -> datetime | None:
    """Return a local time in UTC; None if it is damaged."""
    try:
        return utc((time + zone).decode())
    except ValueError:
        return None


def _texts(packed: bytes) -> tuple[str | None, str | None]:
    """Return two texts that were packed one after the other."""
    unpacker = msgpack.Unpacker(unicode_errors="replace")
    unpacker.feed(packed)
    first, second = unpacker.unpack(), unpacker.unpack()
    return (
        first if isinstance(first, str) else None,
        second if isinstance(second, str) else None,
    )
