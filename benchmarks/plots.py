"""Pictures of a run: ratios, the distributions of latencies, and how costs grow."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import STEPS
from benchmarks.rows import LIMIT, Row, Run, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Scenarios in the picture of ratios, and the work that stands for each.
RATIOS = {
    "store": "store",
    "progress": "both",
    "get": "hit",
    "bytes": "store",
    "get_many": "get_many",
    "wakeups": "AsyncResult.get()",
    "chords": "part",
    "worker": "round trip",
}


#: By what is in the name of a peer.
COLOURS = {"ours": "tab:green", "limit": "silver", "": "tab:blue"}


def draw(run: Run, folder: Path, only: Collection[str] = ()) -> list[Path]:
    """Write the pictures for which there are figures; return their names. Raises ImportError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    return [paint(folder / name) for name, paint in _pictures(run) if name in only or not only]


def _pictures(run: Run) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    if any(section.name in RATIOS for section in run.sections):
        yield "ratios.png", partial(_ratios, run)
    for section in run.sections:
        if any(row.quantiles for row in section.rows):
            yield f"{section.name}-latency.png", partial(_latencies, section)
        if len({row.x for row in section.rows if row.median}) > 2:
            yield f"{section.name}-growth.png", partial(_growth, section)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # writes files, whatever display there is
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _ratios(run: Run, path: Path) -> Path:
    chosen = [(section, _representative(section)) for section in run.sections if section.name in RATIOS]
    height = 0.3 * max(len(rows) for _, rows in chosen) + 0.8
    columns = 2 if len(chosen) > 1 else 1
    figure, axes = _figure(-(-len(chosen) // columns), columns, 7, height)
    for axis, (section, rows) in zip(axes, chosen, strict=False):
        _bars(axis, section, rows)
    for axis in axes[len(chosen) :]:
        axis.set_visible(False)
    figure.suptitle("Time for the same work, ours of the same durability = 1 (logarithmic)")
    return _save(figure, path)


def _representative(section: Section) -> list[Row]:
    """The rows of one work at the largest size that more than one peer has."""
    rows = [row for row in section.rows if row.work == RATIOS[section.name] and row.to_ours]
    sizes = [row.x or 0 for row in rows]
    size = max((x for x in sizes if sizes.count(x) > 1), default=0)
    return [row for row in rows if (row.x or 0) == size]


def _bars(axis: "Axes", section: Section, rows: Sequence[Row]) -> None:
    names = [row.peer for row in rows][::-1]
    values = [row.to_ours or 1 for row in rows][::-1]
    colours = [next(colour for word, colour in COLOURS.items() if word in name) for name in names]
    axis.barh(names, values, color=colours, left=0)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.axvline(1, color="black", linewidth=0.8)
    for place, value in enumerate(values):
        axis.annotate(f" {value:.2g}" if value < 100 else f" {value:.0f}", (value, place), va="center", fontsize=8)
    axis.margins(x=0.15)
    axis.set_title(f"{section.name}: {RATIOS[section.name]}", fontsize=10)


def _latencies(section: Section, path: Path) -> Path:
    works = list(dict.fromkeys((row.work, row.x) for row in section.rows if row.quantiles))
    columns = min(len(works), 3)
    figure, axes = _figure(-(-len(works) // columns), columns, 5, 4)
    shares = [100 * step / STEPS for step in range(STEPS + 1)]
    for axis, (work, x) in zip(axes, works, strict=False):
        for row in section.rows:
            if (row.work, row.x) == (work, x) and row.quantiles:
                axis.plot(row.quantiles, shares, label=row.peer, **_style(row.peer))
        axis.set_xscale("log")
        axis.set_xlabel("µs")
        axis.set_ylabel("% of operations done within")
        axis.set_title(work if x is None else f"{work}, {x:,.0f} {section.grows_with}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[len(works) :]:
        axis.set_visible(False)
    figure.suptitle(section.name)
    return _save(figure, path)


def _growth(section: Section, path: Path) -> Path:
    from matplotlib.ticker import NullLocator

    works = list(dict.fromkeys(row.work for row in section.rows if row.median and row.x is not None))
    figure, axes = _figure(1, len(works), 5, 4)
    for axis, work in zip(axes, works, strict=True):
        rows = [row for row in section.rows if row.work == work and row.median and row.x is not None]
        for peer in dict.fromkeys(row.peer for row in rows):
            points = sorted((row.x or 0, _cost(row)) for row in rows if row.peer == peer)
            axis.plot(*zip(*points, strict=True), marker="o", label=peer, **_style(peer))
        axis.set_xscale("symlog" if any(row.x == 0 for row in rows) else "log")
        costs = [_cost(row) for row in rows]
        if max(costs) > 30 * min(costs):
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, 1.1 * max(costs))
        sizes = sorted({row.x or 0 for row in rows})
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(section.grows_with)
        axis.set_ylabel("operations a second" if rows[0].rate else f"median, {rows[0].unit}")
        axis.set_title(work, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(section.name)
    return _save(figure, path)


def _style(peer: str) -> dict[str, Any]:
    """The limit is no peer: it is there to be compared with."""
    return {"color": "black" if peer == LIMIT else "grey", "linestyle": "--"} if "limit" in peer else {}


def _cost(row: Row) -> float:
    return row.rate or row.median or 0.0


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
