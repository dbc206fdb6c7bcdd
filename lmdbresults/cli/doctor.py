"""``lmdbresults doctor``"""

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from lmdbresults.cli.output import say
from lmdbresults.options import Options, options_from_url
from lmdbresults.store.findings import OK, Finding
from lmdbresults.store.lmdb.doctor import examine as examine_file
from lmdbresults.store.redis import is_redis_url, redis_options_from_url
from lmdbresults.store.redis.doctor import examine as examine_server

__all__ = ["doctor"]

#: Longer lines are hard to read.
_WIDEST = 110


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for programs.")
@click.pass_context
def doctor(context: click.Context, path: Any, as_json: bool) -> None:
    """Say what could go wrong with a file here, and the cure.

    Looks at the file system, cleanup jobs, permissions, space, the file and its checkpoint, the processes that have it
    open, limits and versions; of a Redis server, at its answer, durability and memory. Changes nothing. The file may be
    in use, or missing. Give the URL that your application uses, with its options. Exit status 1: there is an error or a
    warning.
    """
    name, findings = _examine(path)
    if as_json:
        say(json.dumps({"path": name, "findings": [one._asdict() for one in findings]}, indent=2))
    else:
        _say_all(name, findings)
    if any(one.level != OK for one in findings):
        context.exit(1)


def _examine(path: str | Options) -> tuple[str, list[Finding]]:
    if isinstance(path, str) and is_redis_url(path):
        server = redis_options_from_url(path)
        return server.address(), list(examine_server(server))
    options = path if isinstance(path, Options) else options_from_url(path)
    return options.path, list(examine_file(options))


def _say_all(path: str, findings: Sequence[Finding]) -> None:
    say(path)
    subjects = max(len(one.subject) for one in findings)
    for one in findings:
        head = f"{one.level:7}  {one.subject:{subjects}}  "
        for line in _wrapped(head, [one.text, f"Cure: {one.cure}"] if one.cure and one.level != OK else [one.text]):
            say(line)
    bad = sum(one.level != OK for one in findings)
    say("Nothing is wrong here." if not bad else f"Things that are wrong, or could go wrong: {bad}")


def _wrapped(head: str, texts: Iterable[str]) -> list[str]:
    """Return the lines of texts, the first of which begins with ``head``, and all of which are aligned."""
    width = max(min(shutil.get_terminal_size().columns, _WIDEST), len(head) + 30)
    lines = [line for text in texts for line in textwrap.wrap(text, width - len(head), break_long_words=False)]
    return [(" " * len(head) if number else head) + line for number, line in enumerate(lines)]
