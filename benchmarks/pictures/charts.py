"""The pictures of a run: each has one message, which its title says with the figures of the run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.pictures import bars, curves
from benchmarks.pictures.bars import Bar
from benchmarks.pictures.svg import Picture
from benchmarks.rows import BARE, BOUNDED, DISK, OWN, OWN_ROW, Row, Run
from benchmarks.units import TIMES, rounded, unit_of

CHECKPOINT: Final = OWN_ROW[BOUNDED]
CUT: Final = "Bars with a gap are cut: they would not fit."


@dataclass(frozen=True, slots=True)
class Peer:
    """How a row of a peer is shown."""

    row: str
    name: str
    detail: str
    colour: str


#: Broker and results, as a project on one machine sets them up. The first two survive the same power failure.
SET_UPS: Final = (
    Peer(CHECKPOINT, OWN, "one file", OWN),
    Peer("Redis, everysec", "Redis", "a server, everysec", "Redis"),
    Peer("SQLite", "SQLite", "sqla, db+sqlite", "SQLite"),
    Peer("filesystem", "Files", "filesystem, file", "files"),
)
FRAMEWORKS: Final = (
    *SET_UPS[:2],
    Peer("dramatiq, Redis", "dramatiq", "Redis, everysec", "dramatiq"),
    Peer("huey, SQLite", "huey", "SqliteHuey", "huey"),
    Peer("Redis, results in Django", "Celery, Django", "Redis, SQLite", "Django"),
)
#: Celery's result backends that a power failure takes about a second from.
BACKENDS: Final = (
    Peer(CHECKPOINT, OWN, "checkpoint", OWN),
    Peer("Redis, everysec", "Redis", "everysec", "Redis"),
    Peer("SQLite", "SQLite", "WAL, NORMAL", "SQLite"),
)
#: Celery's result backends that lose nothing.
COMMITTERS: Final = (
    Peer(OWN_ROW[DISK], OWN, "commit", OWN),
    Peer("Redis, always", "Redis", "always", "Redis"),
)
#: One of each kind, for work that does not write.
READERS: Final = (
    Peer(OWN, OWN, "one file", OWN),
    Peer("Redis", "Redis", "a server", "Redis"),
    Peer("file://", "Files", "file://", "files"),
    Peer("SQLite, OFF", "SQLite", "db+sqlite", "SQLite"),
)
SYNCED: Final = "Power failure: lmdbresults and Redis lose about a second"


@dataclass(frozen=True, slots=True)
class Measure:
    """Rows of a run that make a panel."""

    scenario: str
    work: str
    title: str
    """Gets `own` and `other`, the figures of the first two peers."""
    peers: Sequence[Peer]
    x: float | None = None
    by_rate: bool = False
    longest: float | None = None
    """The microseconds that a whole bar stands for; None: as the figures are."""

    def bars(self, run: Run) -> list[Bar]:
        """Return what a run has; nothing unless it has the first peer and another one."""
        found = [(peer, run.find(self.scenario, self.work, peer.row, self.x, missing=True)) for peer in self.peers]
        rows = [(peer, row) for peer, row in found if row]
        if len(rows) < 2 or rows[0][0].colour != OWN or rows[0][1].median is None:
            return []
        unit = "" if self.by_rate else unit_of(rows[0][1].median)
        return [self._bar(peer, row, unit) for peer, row in rows]

    def headline(self, shown: Sequence[Bar]) -> str:
        """Return the title with its figures."""
        return self.title.format(own=shown[0].text, other=shown[1].text)

    def draw(self, picture: Picture, shown: Sequence[Bar], title: str) -> bool:
        """Add the panel. Return whether a bar had to be cut."""
        values = [bar.value for bar in shown if bar.value is not None]
        if self.by_rate:
            bars.panel(picture, title, "per second, more is better", shown, max(values))
            return False
        longest = self.longest or bars.longest_time(shown)
        bars.panel(picture, title, f"{shown[0].text.split()[1]}, less is better", shown, longest)
        return max(values) > longest

    def _bar(self, peer: Peer, row: Row, unit: str) -> Bar:
        value = row.rate if self.by_rate else row.median
        if row.missing or value is None:
            return Bar(peer.name, peer.detail, peer.colour, None, row.missing.partition(":")[0])
        text = f"{rounded(value / TIMES[unit])} {unit}".strip()
        return Bar(peer.name, peer.detail, peer.colour, value, text)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of one measure, or of several under a title of their own."""

    subtitle: str
    measures: Sequence[Measure]
    title: str = ""

    def draw(self, run: Run) -> Picture | None:
        """Return the picture, or None if the run has nothing for it."""
        panels = [(measure, shown) for measure in self.measures if (shown := measure.bars(run))]
        if not panels:
            return None
        picture = Picture(self.title or panels[0][0].headline(panels[0][1]), self.subtitle)
        cuts = [
            measure.draw(picture, shown, measure.headline(shown) if self.title else "") for measure, shown in panels
        ]
        if any(cuts):
            picture.bottom += 4
            picture.paragraph(CUT, 14, "muted")
        return picture


CHARTS: Final[Mapping[str, Chart]] = {
    "celery": Chart(
        f"Broker and results; one worker of two processes. {SYNCED}; SQLite nothing, files up to 30 s.",
        (
            Measure("broker", "tasks a second", "Tasks a second: {own} against {other}", SET_UPS, by_rate=True),
            Measure("broker", "round trip", "One task, there and back: {own} against {other}", SET_UPS),
        ),
        title="Celery on one machine",
    ),
    "frameworks": Chart(
        f"delay() until get() has the result, one worker of two processes. {SYNCED}; SqliteHuey nothing, "
        "Django's SQLite the end of its log.",
        (Measure("broker", "round trip", "One task, there and back: {own} against {other}", FRAMEWORKS),),
    ),
    "chord": Chart(
        f"Sent, run by one worker of two processes, and its body's result returned. {SYNCED}.",
        (Measure("broker", "chord of 500", "A chord of 500 tasks: {own} against {other}", SET_UPS[:2]),),
    ),
    "redelivery": Chart(
        "From kill -9 of the worker of an acks_late task until another worker runs it. Redis gives it back after the "
        "visibility timeout, an hour; SQLite and files never.",
        (
            Measure(
                "broker", "redelivery after kill -9", "Killed worker: its task runs again after {own}", SET_UPS,
                longest=5e6,
            ),
        ),
    ),
    "store": Chart(
        "A result is stored while another one expires, 10,000 are kept; Celery's backend classes. A power failure "
        "loses about the last second.",
        (Measure("steady", "one TTL", "Store a result: {own} against {other}", BACKENDS, 10_000),),
    ),
    "commit": Chart(
        "Results stored by four processes at the same time, each on disk before the call returns; Celery's backend "
        "classes. A power failure loses nothing.",
        (Measure("commits", "4 x 1", "On disk at once: {own} a second against {other}", COMMITTERS, by_rate=True),),
    ),
    "read": Chart(
        "Celery's backend classes, get_task_meta() without its cache. Durability makes no difference.",
        (Measure("get", "hit", "Read a result: {own} against {other}", READERS),),
    ),
    "wake-up": Chart(
        "From the call of store_result() in one process until AsyncResult.get() in another returns; nothing is synced.",
        (Measure("wakeups", "store_result() to AsyncResult.get()", "Stored, and the waiter has it: {own} against "
                 "{other}", READERS[:2]),),
    ),
}  # fmt: skip


def expired(run: Run) -> Picture | None:
    """Return the share of expired results over time."""
    names = {OWN: OWN, "Redis": "Redis", "file://": "files", BARE: BARE}
    labels = {"file://": "file://, cleaned once a lifetime"}
    found = {name: run.find("steady", "one TTL", name, 10_000) for name in names}
    shown = {labels.get(name, name): (names[name], row.looks) for name, row in found.items() if row and row.looks}
    if OWN not in shown:
        return None
    most = max(shown[OWN][1])
    return curves.draw(
        Picture(
            f"Expired results: at most {most:.0%} of what is kept",
            "Results that have expired and are still there, % of the others. For each result that is stored, one of "
            "10,000 expires; nothing is synced.",
        ),
        shown,
    )


def drawn(run: Run) -> dict[str, Picture]:
    """Return the pictures of a run by name."""
    makers: Iterable[tuple[str, Callable[[Run], Picture | None]]] = [
        *((name, chart.draw) for name, chart in CHARTS.items()),
        ("expired", expired),
    ]
    return {name: picture for name, make in makers if (picture := make(run))}
