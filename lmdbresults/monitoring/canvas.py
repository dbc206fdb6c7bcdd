"""The tree of a canvas: tasks, groups and chords, as far as the store knows of them."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, Final, Protocol

from lmdbresults import states
from lmdbresults.monitoring.values import Chord, Node, TaskRow

__all__ = ["Canvas", "Source"]

#: Ancestors, and levels below them, that are followed at most.
_HIGHEST, _DEEPEST = 100, 50
_NOTHING: Final = (None, ())
_LONG_AGO: Final = datetime.min.replace(tzinfo=timezone.utc)


class Source(Protocol):
    """What a canvas is read from."""

    def row(self, task_id: str) -> tuple[TaskRow | None, Iterable[Any]]:
        """Return a task, and the tuple trees of the results that it has sent; None if nothing is stored of it."""

    def chord(self, group_id: str) -> Chord | None:
        """Return the chord of which a group is the header, or None."""

    def group_tree(self, group_id: str) -> Any:
        """Return the tuple tree of a group that was saved, or None."""

    def members(self, group_id: str, limit: int) -> list[TaskRow]:
        """Return the tasks that say that they belong to a group."""


class Canvas:
    """Builds the tree around one task or group, of up to ``limit`` nodes."""

    def __init__(self, source: Source, asked: str, limit: int) -> None:
        self._source = source
        self._asked = asked
        self._left = limit
        #: Tasks and groups that are in the tree, or above it: damaged or hostile records may form circles.
        self._seen: set[str] = set()

    def tree(self) -> Node | None:
        """Return the tree; None if nothing is known of what was asked for."""
        row, _ = self._source.row(self._asked)
        if row is None:
            return self._group(self._asked, (), None, 0)
        for _ in range(_HIGHEST):
            parent = None if row.parent_id is None or row.parent_id in self._seen else row.parent_id
            above, _ = _NOTHING if parent is None else self._source.row(parent)
            if above is None:
                break
            self._seen.add(row.id)
            row = above
        self._seen.clear()
        if row.group_id is not None and (group := self._group(row.group_id, (), None, 0)) is not None:
            return group
        return self._task(row.id, 0)

    def _task(self, id_: str, depth: int) -> Node:
        self._left -= 1
        self._seen.add(id_)
        row, trees = self._source.row(id_)
        children: list[Node] = []
        is_cut = False
        for tree in trees:
            if self._left <= 0 or depth >= _DEEPEST:
                is_cut = True
                break
            children += self._result(tree, depth + 1)
        is_asked = id_ == self._asked
        if row is None:
            return Node("task", id_, None, is_asked=is_asked)
        return Node(
            "task", id_, row.state, row.name, row.ended, row.runtime, tuple(children), is_asked=is_asked, is_cut=is_cut
        )

    def _result(self, tree: Any, depth: int) -> Iterator[Node]:
        """Yield the nodes of a result in a task's children; what came before it in a chain or chord comes first."""
        parts = _parts(tree)
        if parts is None:
            return
        id_, parent, children = parts
        before = _parts(parent)
        is_body = before is not None and before[2] is not None and children is None
        if before is not None and before[0] not in self._seen:
            if is_body:
                chord = self._group(before[0], before[2] or (), id_, depth)
                if chord is not None:
                    yield chord
            else:
                yield from self._result(parent, depth)
        if id_ in self._seen or self._left <= 0:
            return
        if children is None:
            yield self._task(id_, depth)
        elif (group := self._group(id_, children, None, depth)) is not None:
            yield group

    def _group(self, id_: str, trees: Iterable[Any], body: str | None, depth: int) -> Node | None:
        """Return the node of a group, or of a chord whose header it is; None if nothing is known of it."""
        self._seen.add(id_)
        chord = self._source.chord(id_)
        known = list(trees) or (_parts(self._source.group_tree(id_)) or (id_, None, None))[2] or []
        ids = [parts[0] for parts in map(_parts, known) if parts is not None]
        members = self._source.members(id_, self._left)
        body = body or _body_among(members, chord)
        ids += [row.id for row in members if row.id not in ids]
        if body in ids:
            ids.remove(body)
        if not ids and chord is None:
            return None
        self._left -= 1
        nodes = []
        is_cut = False
        for each in ids:
            if self._left <= 0 or depth >= _DEEPEST:
                is_cut = True
                break
            if each not in self._seen:
                nodes.append(self._task(each, depth + 1))
        size = len(ids) if chord is None or chord.size is None else chord.size
        done = sum(node.state in states.READY_STATES for node in nodes)
        if chord is not None and chord.state != "ended":
            done = chord.returned
        if body is not None and body not in self._seen and self._left > 0:
            nodes.append(self._task(body, depth + 1))
        return Node(
            "group" if chord is None and body is None else "chord",
            id_,
            None if chord is None else chord.state,
            children=tuple(nodes),
            size=size,
            done=done,
            missing=max(size - done, 0),
            is_asked=id_ == self._asked,
            is_cut=is_cut,
        )


def _body_among(members: list[TaskRow], chord: Chord | None) -> str | None:
    """Return the body of a chord, which with Celery belongs to the group of its header: it ends after all parts."""
    if chord is None or chord.size is None or len(members) <= chord.size:
        return None
    last = max(members, key=lambda row: (row.ended is None, row.ended or _LONG_AGO))
    return last.id


def _parts(tree: Any) -> tuple[str, Any, Any] | None:
    """Return the id of a result, the tree of its parent, and the trees of its children: None if it is a task."""
    try:
        (id_, parent), children = tree
    except (TypeError, ValueError):
        return None
    return str(id_), parent, list(children) if isinstance(children, list | tuple) else None
