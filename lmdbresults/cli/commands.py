"""All commands, and what becomes of their errors."""

from typing import Any

import click

from lmdbresults.cli.backup import backup
from lmdbresults.cli.check import check
from lmdbresults.cli.output import complain
from lmdbresults.cli.rewrite import rewrite
from lmdbresults.cli.salvage import salvage
from lmdbresults.cli.stats import stats
from lmdbresults.errors import FileDamaged, ResultError

__all__ = ["commands"]


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ResultError as error:
            complain(str(error))
            ctx.exit(1 if isinstance(error, FileDamaged) else 2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Look after the files of lmdbresults.

    A PATH is that of the data file, or an lmdb:// URL. Exit codes: 0 all is fine, 1 problems were found, 2 the command
    could not run.
    """


for command in (backup, check, rewrite, salvage, stats):
    commands.add_command(command)
