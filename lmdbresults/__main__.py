"""The command line: ``lmdbresults``, or ``python -m lmdbresults``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run a command and exit: status 0 for success, 1 if problems were found, 2 if the command could not run."""
    try:
        from lmdbresults.cli.commands import commands
    except ModuleNotFoundError as error:
        package, _, _ = (error.name or "").partition(".")
        if package not in ("click", "rich"):
            raise
        sys.stderr.write(f"The command line needs {package}: pip install 'lmdbresults[cli]'\n")
        sys.exit(2)
    commands(prog_name="lmdbresults")


if __name__ == "__main__":
    main()
