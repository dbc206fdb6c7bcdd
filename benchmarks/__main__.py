"""The suite: python -m benchmarks [--full | --huge] [--only NAME] [--json FILE] [--compare BASE.json]."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir

import click

from benchmarks import compare, machine, report, rows, scenarios  # noqa: F401 - importing scenarios registers them
from benchmarks.bench import SCENARIOS
from benchmarks.rows import Run

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(help="lmdbresults, its peers and bare LMDB, side by side in one run.")
@click.option("--full", "mode", flag_value="full", help="Measure what is published: takes 35 minutes.")
@click.option("--huge", "mode", flag_value="huge", help="The same, with files of up to 10 million results: two hours.")
@click.option("--tiny", "mode", flag_value="tiny", hidden=True, help="Only check that everything runs.")
@click.option("--only", metavar="NAME", multiple=True, type=click.Choice(list(SCENARIOS)), help="One scenario; repeat.")
@click.option("--json", "json_path", metavar="FILE", type=FILE, help="Also write the figures to a file.")
@click.option("--compare", "base_path", metavar="BASE.json", type=FILE, help="Fail if lmdbresults has become slower.")
@click.option("--tolerance", default=1.3, show_default=True, help="The factor that --compare allows.")
@click.option("--seed", default=1, show_default=True, help="Of ids and order.")
@click.option("--list", "lists", is_flag=True, help="List the scenarios.")
def main(
    mode: str | None,
    only: Sequence[str],
    json_path: Path | None,
    base_path: Path | None,
    tolerance: float,
    seed: int,
    lists: bool,
) -> None:
    """Measure, print, and write the figures."""
    if lists:
        for each in SCENARIOS.values():
            click.echo(f"{each.name:20}{each.title}")
        return
    mode = mode or "short"
    base = _base(base_path, mode) if base_path else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended
    run = Run(machine.describe(Path(gettempdir())), {"mode": mode, "seed": seed, "only": list(only)})
    click.echo(report.header(run))
    failed = _measure(run, only or list(SCENARIOS), json_path)
    click.echo(f"\n{report.peers_table(run)}\n")
    slower = False
    if base:
        found = compare.changes(base, run)
        click.echo(compare.comparison(found, tolerance))
        slower = any(change.factor > tolerance for change in found)
    sys.exit(1 if failed or slower else 0)


def _base(path: Path, mode: str) -> Run:
    """Return the run to compare with."""
    try:
        base = rows.read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(f"{path} is not the JSON of a run: {error}", param_hint="--compare") from error
    if base.settings["mode"] != mode:
        text = f"{path} is a {base.settings['mode']} run, this is a {mode} one: use --full for both or for neither."
        raise click.BadParameter(text, param_hint="--compare")
    return base


def _measure(run: Run, names: Sequence[str], json_path: Path | None) -> bool:
    """Run the scenarios; print and write each at once. Return whether one has failed."""
    failed = False
    for name in names:
        try:
            section = SCENARIOS[name].measured(run.settings["mode"], run.settings["seed"], _steps(name))
        except Exception:  # the other scenarios still run, and the exit status says it
            failed = True
            click.echo(f"\n{name} failed:\n{traceback.format_exc()}", err=True)
            continue
        _steps("")("")
        run.sections.append(section)
        click.echo(f"\n{report.section(section)}")
        if json_path:
            rows.write(json_path, run)
    return failed


def _steps(name: str) -> Callable[[str], None]:
    """Return what shows progress: one line of a terminal, overwritten each time."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: click.echo(f"\r\033[K{name} {text}", nl=False, err=True)


if __name__ == "__main__":
    main()
