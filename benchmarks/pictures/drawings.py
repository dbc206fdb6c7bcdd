"""Two drawings: how a task travels, and what happens in the first moments after a crash."""

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.pictures.svg import MARGIN, SMALL, TEXT, WIDTH, Picture

RIGHT: Final = WIDTH - MARGIN


def _process(picture: Picture, x: float, y: float, width: float, name: str, detail: str) -> None:
    picture.box(x, y, width, 54, "box fill", 6)
    picture.box(x, y, width, 54, "ink line", 6)
    picture.text(x + width / 2, y + 23, name, TEXT, "ink bold", "middle")
    picture.text(x + width / 2, y + 43, detail, SMALL, "muted", "middle")


def _numbered(picture: Picture, steps: tuple[str, ...]) -> None:
    """Write what the numbers in a drawing stand for."""
    for number, step in enumerate(steps, 1):
        picture.bottom += 8
        picture.number(MARGIN + 11, picture.bottom + 13, number)
        picture.indented(step, MARGIN + 32)


#: What the numbers in the drawing of a task stand for.
STEPS: Final = (
    "Publish: one transaction appends the message.",
    "Wake: a datagram to one worker that found its queue empty. A hint: a lost one costs time, never a task.",
    "Take: the message now belongs to this process, for as long as it lives.",
    "End: one transaction stores the result, sends what follows, and acknowledges the message.",
    "Wake: a datagram to the waiter; it carries a small result.",
    "The waiter reads a large result from the file, without a lock.",
)


def journey() -> Picture:
    """Draw a task from its publisher to the waiter for its result."""
    picture = Picture("How a task travels", "Three processes and one file. No server: each process writes by itself.")
    top = picture.bottom + 18
    for x, name, detail in ((MARGIN, "Publisher", "delay()"), (178, "Worker", "runs the task"),
                            (336, "Waiter", "get()")):  # fmt: skip
        _process(picture, x, top, 124, name, detail)
    below, file = top + 54, top + 154
    picture.box(MARGIN, file, RIGHT - MARGIN, 92, "box fill", 6)
    picture.box(MARGIN, file, RIGHT - MARGIN, 92, "lmdbresults line", 6)
    picture.text(MARGIN + 14, file + 80, "celery.lmdb, a file that all of them have mapped", SMALL, "muted")
    for x, width, name in ((MARGIN + 14, 200, "queue"), (246, 200, "results")):
        picture.box(x, file + 14, width, 44, "lmdbresults line", 4)
        picture.text(x + width / 2, file + 41, name, TEXT, "ink bold", "middle")
    in_file = file + 12
    for number, points in (
        (1, [(82, below + 2), (82, in_file)]),
        (3, [(222, in_file), (222, below + 4)]),
        (4, [(264, below + 2), (264, in_file)]),
        (6, [(420, in_file), (420, below + 4)]),
    ):
        picture.path(points, "ink", 2, "ink-arrow")
        picture.number(points[0][0], (below + file) / 2 + 16, number)
    for number, points in (
        (2, [(120, below + 2), (120, below + 26), (196, below + 26), (196, below + 4)]),
        (5, [(288, below + 2), (288, below + 26), (380, below + 26), (380, below + 4)]),
    ):
        picture.path(points, "lmdbresults dashed", 2, "lmdbresults-arrow")
        picture.number((points[0][0] + points[2][0]) / 2, below + 26, number)
    picture.bottom = file + 104
    _numbered(picture, STEPS)
    return picture


#: Milliseconds that the drawing of a crash shows.
SPAN: Final = 20
#: What the numbers in it stand for.
AFTERWARDS: Final = (
    "The kernel ends the process and releases its locks. A transaction that it had not committed never happened: "
    "readers see the last commit.",
    "The descriptor that worker B holds of worker A becomes readable. Worker B returns A's messages to their old "
    "places, in one transaction.",
    "Worker B takes the task, marked as redelivered, and runs it. If A had committed the end of the task, there is no "
    "message to return: it does not run again.",
)


def crash() -> Picture:
    """Draw a worker that is killed, and the one that takes over."""
    picture = Picture(
        "A crash, and the 20 ms after it",
        "kill -9 of a worker in the middle of an acks_late task. Times are typical; nothing waits for a timeout.",
    )
    left, top = 112, picture.bottom + 34
    scale = (RIGHT - left - 44) / SPAN
    start = left + 44

    def at(milliseconds: float) -> float:
        return start + milliseconds * scale

    lanes = {"Worker A": top, "Kernel": top + 56, "File": top + 112, "Worker B": top + 168}
    for name, y in lanes.items():
        picture.text(MARGIN, y + 21, name, TEXT, "ink bold")
        picture.path([(left, y + 42), (RIGHT, y + 42)], "rule", 1)
    picture.path([(at(0), top - 14), (at(0), top + 210)], "redis dashed", 2)
    picture.text(at(0) + 6, top - 8, "kill -9", SMALL, "redis bold")
    _span(picture, left, lanes["Worker A"], at(0) - left, "task", "muted")
    _span(picture, at(0) + 2, lanes["Kernel"], at(4.6) - at(0), "1", "ink")
    picture.text(at(6.6) + 12, lanes["Kernel"] + 22, "releases its locks", SMALL)
    _span(picture, at(5), lanes["File"], at(9) - at(5), "2", "ink")
    picture.text(at(11) + 12, lanes["File"] + 22, "message returns", SMALL)
    _span(picture, at(9.5), lanes["Worker B"], RIGHT - at(9.5), "3", "lmdbresults", "runs the task again")
    picture.path([(at(4.6), lanes["Kernel"] + 17), (at(6.6), lanes["Kernel"] + 17), (at(6.6), lanes["File"] - 2)],
                 "ink", 2, "ink-arrow")  # fmt: skip
    picture.path([(at(9) + 2, lanes["File"] + 17), (at(11), lanes["File"] + 17), (at(11), lanes["Worker B"] - 2)],
                 "ink", 2, "ink-arrow")  # fmt: skip
    for tick in (0, 5, 10, 15, 20):
        anchor = "end" if tick == SPAN else "middle"
        picture.text(at(tick), top + 232, f"{tick} ms" if tick == SPAN else str(tick), SMALL, "muted", anchor)
    picture.bottom = top + 244
    _numbered(picture, AFTERWARDS)
    return picture


def _span(picture: Picture, x: float, y: float, width: float, label: str, colour: str, text: str = "") -> None:
    """Draw a bar of a lane with a label in it: in the middle, or before a text."""
    picture.box(x, y + 3, width, 28, f"{colour} fill", 4)
    if text:
        picture.text(x + 10, y + 22, label, SMALL, "page bold")
        picture.text(x + 24, y + 22, text, SMALL, "page")
    else:
        picture.text(x + width / 2, y + 22, label, SMALL, "page bold", "middle")


DRAWINGS: Final[Mapping[str, Callable[[], Picture]]] = {"journey": journey, "crash": crash}
