"""Output of commands: lines of text, and a progress bar."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from lmdbresults.store.base import Progress as Report

__all__ = ["progress", "say", "say_some"]

#: The most lines of one kind that are listed.
_MOST: Final = 20


def say(text: str, *, err: bool = False) -> None:
    """Print a line, to the standard error stream if ``err``. File names that are not UTF-8 are escaped."""
    click.echo(text.encode(errors="backslashreplace").decode(), err=err)


def say_some(sentences: Sequence[str]) -> None:
    """Print the first lines of a list, and how many more there are."""
    for sentence in sentences[:_MOST]:
        say(f"  {sentence}")
    if len(sentences) > _MOST:
        say(f"  ... and {len(sentences) - _MOST} more.")


@contextmanager
def progress(what: str) -> Iterator[Report | None]:
    """Yield a function ``(done, total)`` that draws a progress bar, or None if there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
