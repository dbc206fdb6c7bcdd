"""The pictures of a run, as SVG: the times of all peers, and the expired results over time.

A picture names the figures that it shows by a digest, so that a test finds a picture of older figures without drawing.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from benchmarks.rows import LOOKS, OWN, Run

RATIOS: Final = "Time for the same work, lmdbresults of the same durability = 1 (logarithmic)"
EXPIRED: Final = "Expired results in the file, % of the others, over the lifetimes of a result"

#: Scenarios in the picture of ratios, and the work that represents each.
WORKS: Final[Mapping[str, str]] = {
    "steady": "one TTL",
    "store": "store",
    "progress": "both",
    "get": "hit",
    "bytes": "store",
    "get_many": "get_many",
    "wakeups": "store_result() to AsyncResult.get()",
    "chords": "part",
    "worker": "round trip",
}
#: The promised bound, %.
MOST: Final = 25
STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9, "axes.titlesize": 9}

Bars = Mapping[str, Mapping[str, float]]
Lines = Sequence[Mapping[str, Sequence[float]]]


def ratios(run: Run) -> Bars:
    """Return by scenario the ratio of each peer, at the largest size that several peers have."""
    found = {}
    rows = {section.name: section.rows for section in run.sections}
    for scenario, work in WORKS.items():
        compared = [row for row in rows.get(scenario, ()) if row.work == work and row.to_own not in (None, 1)]
        sizes = [row.x for row in compared]
        largest = [x for x in sizes if sizes.count(x) > 1][-1:]
        if largest:
            found[f"{scenario}: {work}"] = {row.peer: row.to_own or 1 for row in compared if row.x in largest}
    return found


def expired(run: Run) -> Lines:
    """Return the shares over time: of lmdbresults by size and work, and of all peers at the smallest size."""
    rows = [row for section in run.sections for row in section.rows if row.looks]
    least = min((row.x or 0 for row in rows), default=0)
    return [
        {f"{row.x or 0:,.0f}, {row.work}": row.looks for row in rows if row.peer == OWN},
        {row.peer: row.looks for row in rows if (row.x or 0) == least and row.work == rows[0].work},
    ]


def digest(drawn: Bars | Lines) -> str:
    """Return what a picture of these figures contains."""
    return blake2b(json.dumps(drawn).encode(), digest_size=16).hexdigest()


def draw_ratios(bars: Bars, path: Path) -> None:
    """Draw a bar for each peer, from the time of lmdbresults to its own."""
    lines = [len(peers) + 2 for peers in bars.values()]
    figure, axes = _figure(
        len(bars), 1, figsize=(7.5, 0.2 * sum(lines)), height_ratios=lines, sharex=True, squeeze=False
    )
    figure.suptitle(RATIOS)
    for (axis,), (title, peers) in zip(axes, bars.items(), strict=True):
        colours = ["tab:gray" if peer.startswith("bare") else "tab:blue" for peer in peers]
        drawn = axis.barh(list(peers), [value - 1 for value in peers.values()], left=1, color=colours)
        texts = [f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in peers.values()]
        axis.bar_label(drawn, texts, padding=2)
        axis.set(xscale="log", xlim=(0.05, 500), title=title)
        axis.minorticks_off()
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=1)
    _save(figure, path, digest(bars))


def draw_expired(lines: Lines, path: Path) -> None:
    """Draw a curve for each row."""
    figure, axes = _figure(1, len(lines), figsize=(10, 4.5))
    for axis, title, curves in zip(axes, (f"{OWN}, by kept results and work", "peers"), lines, strict=True):
        for name, shares in curves.items():
            axis.plot([number / LOOKS for number in range(len(shares))], [100 * share for share in shares], label=name)
        axis.axhline(MOST, color="black", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="lifetimes", ylabel="expired, %", ylim=(0, None))
        axis.legend(fontsize="small")
    _save(figure, path, digest(lines))


def _figure(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    return pyplot.subplots(*args, layout="constrained", **kwargs)  # type: ignore[no-any-return]


def _save(figure: Any, path: Path, about: str) -> None:
    figure.savefig(path, metadata={"Date": None, "Description": about})
