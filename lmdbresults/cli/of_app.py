"""``celery -A proj lmdb ...``: the commands, on the file of an application. Celery finds the group by its entry point.

Every run of `celery` imports this module, so it imports nothing that takes time.
"""

from typing import Any, Final

import click

__all__ = ["lmdb"]

#: Commands that work on no store.
_OTHERS: Final = ("completion",)
#: How the parameter is called that names the store, and the one that names an application.
_STORES, _APP = frozenset({"path", "source"}), "app"
#: Begins the result backend of an application whose results are on a server.
_ON_SERVER: Final = "lmdbresults+"


class _OfApp(click.Group):
    """The commands whose FILE, or SOURCE, is the result backend of the application, or its broker."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _group().list_commands(ctx) if name not in _OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = None if cmd_name in _OTHERS else _group().get_command(ctx, cmd_name)
        if command is None or command.callback is None:
            return None
        run, names = command.callback, {param.name for param in command.params}

        def run_on_file(**arguments: Any) -> Any:
            app = click.get_current_context().obj.app
            known = {name: _options_of(app) for name in names & _STORES} | dict.fromkeys(names & {_APP}, app)
            return run(**known, **arguments)

        params = [param for param in command.params if param.name not in _STORES | {_APP}]
        return click.Command(cmd_name, params=params, callback=run_on_file, help=command.help)

    def invoke(self, ctx: click.Context) -> Any:
        from lmdbresults.cli.commands import exiting

        return exiting(ctx, super().invoke)


def _group() -> Any:
    try:
        from lmdbresults.cli.commands import commands
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        raise click.ClickException("The command line needs rich: pip install 'lmdbresults[cli]'") from error
    return commands


def _options_of(app: Any) -> Any:
    """Return the options of the file in which an application has its results, or its queues; or a URL of a server."""
    from lmdbresults.integrations.transport_options import STORE_OPTIONS, store_options
    from lmdbresults.options import options_from_url

    conf = app.conf
    for url, setting in (
        (conf.result_backend, "result_backend_transport_options"),
        (conf.broker_read_url or conf.broker_url, "broker_transport_options"),
    ):
        if isinstance(url, str) and url.startswith(_ON_SERVER):
            return url.removeprefix(_ON_SERVER)
        if isinstance(url, str) and url.startswith("lmdb://"):
            given = store_options(setting, url, conf.get(setting) or {}, (*STORE_OPTIONS, "max_decoded_bytes"))
            given.pop("max_decoded_bytes", None)
            return options_from_url(url, **given)
    raise click.UsageError(
        "The application has neither results in lmdb:// or lmdbresults+redis://, nor queues in lmdb://."
    )


@click.group(cls=_OfApp)
def lmdb() -> None:
    """See into the LMDB file of the application: tasks, groups, chords, queues."""
