"""``lmdbresults completion``"""

import click
from click.shell_completion import get_completion_class

from lmdbresults.cli.output import say

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands and options.

    For bash: `lmdbresults completion bash > ~/.local/share/bash-completion/completions/lmdbresults`.
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    say(kind(context.find_root().command, {}, "lmdbresults", "_LMDBRESULTS_COMPLETE").source())
