"""What a page is configured with, and who may see it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from lmdbresults.errors import ConfigurationError

__all__ = ["LOOPBACK", "Control", "Settings", "read_token"]

#: The names by which only programs of this machine reach a page.
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Characters of a token. At 16 it cannot be guessed if it is random.
_SHORTEST_TOKEN: Final = 16


class Control(Protocol):
    """What the page asks of a task framework, if actions are allowed. Called in a thread; may raise any exception."""

    @property
    def uses_file(self) -> bool:
        """Whether messages are sent through the queues in the file that is shown."""

    def revoke(self, task_id: str, *, terminate: bool) -> None:
        """Have workers discard a task that has not started; ``terminate`` also ends it if it runs."""

    def retry(self, name: str, args: list[Any], kwargs: Mapping[str, Any], queue: str | None) -> str:
        """Send a task by its name; return its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a page. Raises `ConfigurationError` if they would show it to others without a check."""

    hosts: frozenset[str] = LOOPBACK
    """The names in the Host header that the page answers to, in lower case, without a port."""
    token: str | None = field(default=None, repr=False)
    """What a visitor must know, at least 16 characters; None: anyone who reaches the page may see it."""
    authorize: Callable[[Mapping[str, Any]], bool] | None = None
    """Returns whether the request with an ASGI scope may be answered, for an application that knows its users."""
    allow_actions: bool = False
    """Whether visitors may delete results, and revoke and retry tasks if there is a ``control``."""
    control: Control | None = None

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ConfigurationError(
                f"the token must have at least {_SHORTEST_TOKEN} characters, got {len(self.token)}"
            )
        foreign = sorted(self.hosts - LOOPBACK)
        if foreign and self.token is None and self.authorize is None:
            raise ConfigurationError(
                f"the page would be open to everyone who reaches {', '.join(foreign)}: give it a token or authorize"
            )


def read_token(path: str | os.PathLike[str]) -> str:
    """Return the token in a file. Raises `ConfigurationError` if other users can read the file, or it has no token."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The token file {os.fspath(path)} cannot be read: {error}. "
            "Make one: (umask 077; openssl rand -hex 32 > token)"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"Other users can read the token file {os.fspath(path)}: chmod 600 it.")
    return token
