"""The canvas of a task as a picture: a tree from left to right, each node a box that leads to its task.

Of many children of the same kind the first few are drawn, then one box that counts the rest: a chord of a thousand
parts fits a screen. Those that failed or are missing are drawn first, because they are what one looks for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from lmdbresults.web.charts import kind_of

__all__ = ["Box", "Picture", "draw"]

_WIDTH, _HEIGHT = 208, 46
_GAP_X, _GAP_Y = 44, 10
#: Children that are drawn before the rest is counted, and levels of the tree.
_MOST_CHILDREN: Final = 9
_MOST_LEVELS: Final = 40
#: What one looks for comes first.
_ORDER: Final = {"failure": 0, "pending": 1, "retry": 2, "running": 3, "revoked": 4, "success": 5}


class Node(Protocol):
    """A node of `Monitor.canvas`."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def runtime(self) -> float | None: ...
    @property
    def children(self) -> Sequence["Node"]: ...
    @property
    def size(self) -> int | None: ...
    @property
    def done(self) -> int: ...
    @property
    def is_asked(self) -> bool: ...
    @property
    def is_cut(self) -> bool: ...


@dataclass(slots=True)
class Box:
    """A node in its place, or several that are counted."""

    x: float
    y: float = 0.0
    node: Node | None = None
    counted: Sequence[tuple[str, int]] = ()
    """Kinds of state and how many, for nodes that are not drawn."""
    boxes: list["Box"] = field(default_factory=list)
    width: int = _WIDTH
    height: int = _HEIGHT

    @property
    def kind(self) -> str:
        """What it is coloured by."""
        if self.node is None:
            return "more"
        if self.node.kind == "task":
            return kind_of(self.node.state)
        if any(child.state == "FAILURE" for child in self.node.children):
            return "failure"
        return "success" if self.node.size is not None and self.node.done >= self.node.size else "running"

    @property
    def share(self) -> float | None:
        """How much of a group or chord is done, from 0 to 1; None if that is not known."""
        size = self.node.size if self.node is not None and self.node.kind != "task" else None
        return min(self.node.done / size, 1.0) if size and self.node is not None else None


@dataclass(frozen=True, slots=True)
class Picture:
    """All boxes, and the lines between them as SVG paths."""

    width: float
    height: float
    boxes: Sequence[Box]
    lines: Sequence[str]
    is_cut: bool


def draw(root: Node) -> Picture:
    """Return the picture of a tree."""
    boxes: list[Box] = []
    bottom = [0.0]
    _place(root, 0, boxes, bottom)
    lines = [_line(box, child) for box in boxes for child in box.boxes]
    return Picture(
        max(box.x for box in boxes) + _WIDTH,
        bottom[0] - _GAP_Y,
        boxes,
        lines,
        any(box.node is not None and box.node.is_cut for box in boxes),
    )


def _place(node: Node, level: int, boxes: list[Box], bottom: list[float]) -> Box:
    """Place a node beside the middle of its children, which are placed first; ``bottom`` is where the next one goes."""
    box = Box(level * (_WIDTH + _GAP_X), node=node)
    boxes.append(box)
    shown, rest = _chosen(node.children if level < _MOST_LEVELS else ())
    box.boxes = [_place(child, level + 1, boxes, bottom) for child in shown]
    if rest:
        more = Box((level + 1) * (_WIDTH + _GAP_X), _take_row(bottom), counted=_count(rest))
        boxes.append(more)
        box.boxes.append(more)
    box.y = (box.boxes[0].y + box.boxes[-1].y) / 2 if box.boxes else _take_row(bottom)
    return box


def _take_row(bottom: list[float]) -> float:
    y = bottom[0]
    bottom[0] += _HEIGHT + _GAP_Y
    return y


def _chosen(children: Sequence[Node]) -> tuple[Sequence[Node], Sequence[Node]]:
    """Return the children to draw, in their order, and the others."""
    if len(children) <= _MOST_CHILDREN:
        return children, ()
    by_interest = sorted(range(len(children)), key=lambda place: _interest(children[place]))
    shown = set(by_interest[: _MOST_CHILDREN - 1])
    return (
        [child for place, child in enumerate(children) if place in shown],
        [child for place, child in enumerate(children) if place not in shown],
    )


def _interest(node: Node) -> tuple[bool, bool, int]:
    leads_on = bool(node.children) or node.kind != "task"
    return not node.is_asked, not leads_on, _ORDER.get(kind_of(node.state), 9)


def _count(nodes: Sequence[Node]) -> list[tuple[str, int]]:
    return Counter(kind_of(node.state) for node in nodes).most_common()


def _line(box: Box, child: Box) -> str:
    x, y = box.x + _WIDTH, box.y + _HEIGHT / 2
    end_x, end_y = child.x, child.y + _HEIGHT / 2
    middle = (x + end_x) / 2
    return f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {end_y:g} {end_x:g} {end_y:g}"
