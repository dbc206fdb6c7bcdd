"""``lmdbresults check``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import say, say_json
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["check"]


@click.command()
@options.path
@click.option("--repair", is_flag=True, help="Delete orphaned data; recount queues.")
@options.as_json
@click.pass_context
def check(context: click.Context, path: Any, repair: bool, as_json: bool) -> None:
    """Verify a whole file: LMDB's pages and every record.

    Other processes may use it meanwhile. Without --repair nothing is changed, with one exception: after a power failure
    the file first goes back to its last checkpoint, as it does whenever it is opened. A damaged record is never
    removed: delete its key, or restore a backup.
    """
    chosen, repaired = existing(path), list[str]()
    if repair or any(recovery.pending(chosen.path)):
        with opened(chosen) as store:
            repaired = store.repair() if repair else []
    problems = verify(chosen.path, live=True)
    if as_json:
        say_json({"path": chosen.path, "repaired": repaired, "problems": problems})
    else:
        for done in repaired:
            say(f"Repaired: {done}")
        for problem in problems or [f"{chosen.path}: no problems found."]:
            say(problem)
    if problems:
        context.exit(1)
