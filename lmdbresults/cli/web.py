"""``lmdbresults web``"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from lmdbresults.cli.opening import opened_anywhere
from lmdbresults.cli.output import say
from lmdbresults.errors import ConfigurationError, FolderMissing
from lmdbresults.options import Options, options_from_url
from lmdbresults.store.opening import is_on_server

if TYPE_CHECKING:
    from lmdbresults.web.settings import Control

__all__ = ["web"]

#: What the extra ``web`` installs.
_PACKAGES = ("anyio", "jinja2", "markupsafe", "starlette", "uvicorn")


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--port", type=click.IntRange(0, 65535), default=5556, show_default=True, help="0 takes a free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at. Others demand a token.")
@click.option("--token-file", type=click.Path(dir_okay=False), help="File with the token that visitors must enter.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also answer to this name; may be repeated.")
@click.option("--allow-actions", is_flag=True, help="Let visitors forget results, and revoke and retry tasks.")
@click.option("--app", metavar="MODULE", help="Celery application that revokes and retries, as in `celery --app`.")
def web(
    path: Any,
    port: int,
    host: str,
    token_file: str | None,
    allow_host: Collection[str],
    allow_actions: bool,
    app: Any,
) -> None:
    """Serve a page that shows what is in a store.

    It is for this machine only, and shows without changing anything, unless options say otherwise. The file may be
    in use, and need not exist yet; FILE may be the URL of a server. For other machines, give --host, --token-file
    and --allow-host with the name in the address of the page; the token and all that is shown are sent unencrypted,
    so put a TLS proxy in front.
    """
    serving, create_app, settings = _needed()
    token = None if token_file is None else settings.read_token(token_file)
    name = f"[{host}]" if ":" in host else host
    hosts = {*settings.LOOPBACK, *allow_host} | ({name} if _is_a_name(host) else set())
    if token is None and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError(f"All that reach {host} could see the page: add --token-file.")
    control = _control(app, path) if allow_actions else None
    page = create_app(path, hosts=hosts, token=token, allow_actions=allow_actions, control=control)
    missing = "" if _can_be_read(path) else ", which does not exist yet,"
    listening = serving.bind(host, port)
    say(f"Showing {page.state.name}{missing} at http://{name}:{listening.getsockname()[1]}/ (Ctrl-C stops)")
    serving.serve(page, listening)


def _can_be_read(path: str | Options) -> bool:
    """Return whether there is a store to show; False: no file yet. Raises what opening any other store raises."""
    try:
        with opened_anywhere(path) as store:
            store.now()
    except FolderMissing:
        return False
    return True


def _needed() -> tuple[Any, Any, Any]:
    """Return what serves the page, or end with how to install it."""
    try:
        from lmdbresults.web import create_app, serving, settings
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or "").partition(".")
        if package not in _PACKAGES:
            raise
        raise ConfigurationError(f"The page needs {package}: pip install 'lmdbresults[cli,web]'") from error
    return serving, create_app, settings


def _control(app: Any, path: str | Options) -> "Control | None":
    """Return what revokes and retries: a given application, or one whose broker is the file; None without Celery.

    An application is given by itself or by its name.
    """
    try:
        from lmdbresults.integrations.celery.control import CeleryControl
    except ModuleNotFoundError as error:
        if app is not None:
            raise ConfigurationError("--app needs Celery: pip install 'lmdbresults[celery]'") from error
        return None
    if app is not None and not isinstance(app, str):
        return CeleryControl(app)
    if app is None:
        return None if isinstance(path, Options) or is_on_server(path) else CeleryControl.of_file(_url(path))
    try:
        return CeleryControl.named(app)
    except Exception as error:  # whatever the module raises
        raise ConfigurationError(f"--app {app} cannot be imported: {error}") from error


def _url(path: str) -> str:
    return path if "://" in path else f"lmdb://{options_from_url(path).path}"


def _is_a_name(host: str) -> bool:
    """Return whether a page can be reached by what it listens at, as it cannot by 0.0.0.0."""
    return host not in ("0.0.0.0", "::", "")  # noqa: S104
