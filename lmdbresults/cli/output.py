"""What commands print: sentences, and how far they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from lmdbresults.store.base import Progress as Report

__all__ = ["complain", "progress", "say", "say_some"]

#: So many of a kind are listed.
_MOST: Final = 20


def say(text: str) -> None:
    """Print a line, also of names that are not UTF-8."""
    click.echo(text.encode(errors="backslashreplace").decode())


def complain(text: str) -> None:
    """Print a line to where errors go."""
    click.echo(text.encode(errors="backslashreplace").decode(), err=True)


def say_some(sentences: Sequence[str]) -> None:
    """Print the first of many lines, and how many more there are."""
    for sentence in sentences[:_MOST]:
        say(f"  {sentence}")
    if len(sentences) > _MOST:
        say(f"  ... and {len(sentences) - _MOST} more.")


@contextmanager
def progress(what: str) -> Iterator[Report | None]:
    """Yield what is to be told how far the work is. On a terminal it draws a bar; elsewhere it is None."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
