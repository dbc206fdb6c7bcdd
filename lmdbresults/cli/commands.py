"""The group of all commands, and how errors become exit statuses."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar

import click

from lmdbresults.cli.output import say
from lmdbresults.errors import FileDamaged, ResultError

__all__ = ["COMMANDS", "Commands", "commands", "exiting"]

Result = TypeVar("Result")

#: Where each command is. A module is imported when its command runs, so it may need an extra of its own.
COMMANDS: Final = {
    "backup": "lmdbresults.cli.backup:backup",
    "check": "lmdbresults.cli.check:check",
    "chords": "lmdbresults.cli.chords:chords",
    "completion": "lmdbresults.cli.completion:completion",
    "copy": "lmdbresults.cli.copy:copy",
    "doctor": "lmdbresults.cli.doctor:doctor",
    "export": "lmdbresults.cli.export:export",
    "forget": "lmdbresults.cli.forget:forget",
    "groups": "lmdbresults.cli.groups:groups",
    "import": "lmdbresults.cli.importing:import_",
    "list": "lmdbresults.cli.listing:list_",
    "overview": "lmdbresults.cli.overview:overview",
    "queues": "lmdbresults.cli.queues:queues",
    "rewrite": "lmdbresults.cli.rewrite:rewrite",
    "salvage": "lmdbresults.cli.salvage:salvage",
    "show": "lmdbresults.cli.show:show",
    "stats": "lmdbresults.cli.stats:stats",
    "sweep": "lmdbresults.cli.sweep:sweep",
    "tail": "lmdbresults.cli.tail:tail",
    "wait": "lmdbresults.cli.wait:wait",
    "watch": "lmdbresults.cli.watch:watch",
    "web": "lmdbresults.cli.web:web",
}


class Commands(click.Group):
    """The commands. An error becomes a sentence and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        return exiting(ctx, super().invoke)


def exiting(ctx: click.Context, invoke: Callable[[click.Context], Result]) -> Result:
    """Return ``invoke(ctx)``; exit with the status that belongs to an error."""
    try:
        return invoke(ctx)
    except ResultError as error:
        say(str(error), err=True)
        ctx.exit(1 if isinstance(error, FileDamaged) else 2)
    except UnicodeEncodeError as error:  # of an argument: what is stored is UTF-8
        say(f"Ids and names must be UTF-8, got {os.fsencode(error.object)!r}.", err=True)
        ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmdbresults", prog_name="lmdbresults")
def commands() -> None:
    """See into the files of lmdbresults, and maintain them.

    FILE is the path of a data file, or a URL such as lmdb:///var/lib/app/celery.lmdb; most commands also take that of a
    server, such as redis://host/0. Each command but `rewrite` works on a file that is in use. Exit status: 0 for
    success, 1 if problems were found or what was asked for does not exist, 2 if the command could not run. `wait` has
    more of them.
    """
