"""Commands run in this process, but for those that must be woken, or that need a terminal."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lmdbresults.cli.commands import commands


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command and assert its exit status."""

    def run(*arguments: Any, code: int = 0, given: str | bytes | None = None) -> Result:
        command = [
            argument
            if isinstance(argument, str)
            else os.fspath(argument)
            if hasattr(argument, "__fspath__")
            else str(argument)
            for argument in arguments
        ]
        done = CliRunner().invoke(commands, command, input=given, prog_name="lmdbresults")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    return run
