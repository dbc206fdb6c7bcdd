"""The group of all commands, and how errors become exit statuses."""

from typing import Any

import click

from lmdbresults.cli.backup import backup
from lmdbresults.cli.check import check
from lmdbresults.cli.copy import copy
from lmdbresults.cli.doctor import doctor
from lmdbresults.cli.output import say
from lmdbresults.cli.queues import queues
from lmdbresults.cli.rewrite import rewrite
from lmdbresults.cli.salvage import salvage
from lmdbresults.cli.stats import stats
from lmdbresults.cli.web import web
from lmdbresults.errors import FileDamaged, ResultError

__all__ = ["commands"]


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ResultError as error:
            say(str(error), err=True)
            ctx.exit(1 if isinstance(error, FileDamaged) else 2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmdbresults", prog_name="lmdbresults")
def commands() -> None:
    """Inspect and maintain the files of lmdbresults.

    PATH is the path of a data file, or an lmdb:// URL. Exit status: 0 for success, 1 if problems were found, 2 if the
    command could not run.
    """


for command in (backup, check, copy, doctor, queues, rewrite, salvage, stats, web):
    commands.add_command(command)
