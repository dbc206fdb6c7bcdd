"""``lmdbresults check``"""

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import say
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["check"]


@click.command()
@click.argument("path")
@click.option("--repair", is_flag=True, help="Delete orphaned data; recount queues.")
@click.pass_context
def check(context: click.Context, path: str, repair: bool) -> None:
    """Verify a whole file: LMDB's pages and every record.

    Other processes may use it meanwhile. Without --repair nothing is changed, with one exception: after a power failure
    the file first goes back to its last checkpoint, as it does whenever it is opened. A damaged record is never
    removed: delete its key, or restore a backup.
    """
    options = existing(path)
    if repair or recovery.pending_rollback(options.path) is not None:
        with opened(options) as store:
            for done in store.repair() if repair else ():
                say(f"Repaired: {done}")
    problems = verify(options.path, live=True)
    for problem in problems:
        say(problem)
    if problems:
        context.exit(1)
    say(f"{options.path}: no problems found.")
