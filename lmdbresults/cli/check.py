"""``lmdbresults check``"""

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import say
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["check"]


@click.command()
@click.argument("path")
@click.option("--repair", is_flag=True, help="Remove what belongs to no record, and index again what is not.")
@click.pass_context
def check(context: click.Context, path: str, repair: bool) -> None:
    """Look at everything in a file: LMDB's pages, records, expiry index, what is left of chords.

    Others may be using it. Nothing is changed without --repair, but for one thing: a file that waits to be put back to
    its checkpoint, since the machine went down, is put back, as whoever opens it next would do. A damaged record is
    never removed: delete its key, or restore a backup.
    """
    options = existing(path)
    if repair or recovery.pending_rollback(options.path) is not None:
        with opened(options) as store:
            for done in store.repair() if repair else ():
                say(f"Repaired: {done}")
    problems = verify(options.path, live=True, chords=True)
    for problem in problems:
        say(problem)
    if problems:
        context.exit(1)
    say(f"{options.path} is sound.")
