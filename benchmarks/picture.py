"""The picture of a run: expired results over time, as SVG.

It names the figures that it shows by a digest, so that a test finds a picture of older figures without drawing.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from benchmarks.rows import LOOKS, OWN, Run

TITLE: Final = "Expired results in the file, % of the others, over the lifetimes of a result"
#: The promised bound, %.
MOST: Final = 25
STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "benchmarks"}

Lines = Sequence[Mapping[str, Sequence[float]]]


def lines(run: Run) -> Lines:
    """Return the shares over time: of lmdbresults by size and work, and of all peers at the smallest size."""
    rows = [row for section in run.sections for row in section.rows if row.looks]
    least = min((row.x or 0 for row in rows), default=0)
    return [
        {f"{row.x or 0:,.0f}, {row.work}": row.looks for row in rows if row.peer == OWN},
        {row.peer: row.looks for row in rows if (row.x or 0) == least and row.work == rows[0].work},
    ]


def digest(run: Run) -> str:
    """Return what the picture of a run contains."""
    return blake2b(json.dumps(lines(run)).encode(), digest_size=16).hexdigest()


def draw(run: Run, path: Path) -> None:
    """Draw a curve for each row."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    figure, axes = pyplot.subplots(1, 2, layout="constrained", figsize=(10, 4.5))
    for axis, title, curves in zip(axes, (f"{OWN}, by kept results and work", "peers"), lines(run), strict=True):
        for name, shares in curves.items():
            axis.plot([number / LOOKS for number in range(len(shares))], [100 * share for share in shares], label=name)
        axis.axhline(MOST, color="black", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="lifetimes", ylabel="expired, %", ylim=(0, None))
        axis.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None, "Description": digest(run)})
